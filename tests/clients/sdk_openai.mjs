// sdk_openai.mjs - drives `ds4 serve` with OpenAI's SDK for Node and prints what it saw as JSON (test_sdks.py).
// Arguments: the folder where the SDK is installed, and the port.
import { createRequire } from "node:module";

const [folder, port] = process.argv.slice(2);
const { OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: "any", maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const model = "m";
const functions = ["get_weather", "now"].map((name) => ({ name, parameters: { type: "object" } }));
const tools = functions.map((f) => ({ type: "function", function: f }));
const seen = { models: [], streamed: "" };

for await (const m of client.models.list()) seen.models.push(m.id);
const whole = await client.chat.completions.create({ model, messages: user("hello") });
seen.text = whole.choices[0].message.content;
const stream = await client.chat.completions.create({ model, messages: user("hello"), stream: true });
for await (const chunk of stream) seen.streamed += chunk.choices[0]?.delta?.content ?? "";

const helper = client.chat.completions.stream({ model, messages: user("weather"), tools });
// The helper keeps only the last piece of reasoning_content: the server knows by the calls what was thought.
const message = await helper.finalMessage();
seen.calls = message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)]);
const results = message.tool_calls.map((c) => ({ role: "tool", tool_call_id: c.id, content: "hello from the tool" }));
const after = await client.chat.completions.create({ model, tools, messages: [...user("weather"), message, ...results] });
seen.after = after.choices[0].message.content;
seen.cached = after.usage.prompt_tokens_details.cached_tokens;

const response = await client.responses.stream({ model, input: "weather", reasoning: { summary: "auto" },
  tools: functions.map((f) => ({ type: "function", strict: false, ...f })) }).finalResponse();
seen.responses = response.output.map((item) => item.type);
seen.responses_text = (await client.responses.create({ model, input: "hello" })).output_text;
seen.overflow = await client.chat.completions.create({ model, messages: user("x".repeat(5000)) })
  .then(() => "", (error) => error.message);
console.log(JSON.stringify(seen));
