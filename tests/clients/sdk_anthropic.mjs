// sdk_anthropic.mjs - drives `ds4 serve` with Anthropic's SDK for Node and prints what it saw as JSON (test_sdks.py).
// Arguments: the folder where the SDK is installed, and the port.
import { createRequire } from "node:module";

const [folder, port] = process.argv.slice(2);
const { Anthropic } = createRequire(`${folder}/`)("@anthropic-ai/sdk");
const client = new Anthropic({ baseURL: `http://127.0.0.1:${port}`, apiKey: "any", maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const common = { model: "m", max_tokens: 500 };
const tools = ["get_weather", "now"].map((name) => ({ name, input_schema: { type: "object" } }));
const seen = { models: [] };

for await (const m of client.models.list()) seen.models.push(m.id);
seen.text = (await client.messages.create({ ...common, messages: user("hello") })).content.at(-1).text;
seen.streamed = await client.messages.stream({ ...common, messages: user("hello") }).finalText();
const message = await client.messages.stream({ ...common, tools, messages: user("weather") }).finalMessage();
const calls = message.content.filter((block) => block.type === "tool_use");
seen.calls = calls.map((call) => [call.name, call.input]);
const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "hello from the tool" }));
const after = await client.messages.create({ ...common, tools, messages: [...user("weather"),
  { role: "assistant", content: message.content }, { role: "user", content: results }] });
seen.after = after.content.at(-1).text;
seen.cached = after.usage.cache_read_input_tokens;
seen.counted = (await client.messages.countTokens({ model: "m", messages: user("hello") })).input_tokens;
seen.overflow = await client.messages.create({ ...common, messages: user("x".repeat(5000)) })
  .then(() => "", (error) => error.message);
console.log(JSON.stringify(seen));
