// wire.js - what goes to the server and comes back: requests of this origin only, and streams of events.

class Trouble extends Error {
  constructor(message, status = 0) {
    super(message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : "."));
    this.status = status;
  }
}

function headersOf(more) {
  return settings.key ? { ...more, Authorization: `Bearer ${settings.key}` } : { ...more };
}

async function troubleOf(response) {
  let said = "";
  try {
    said = (await response.json()).error?.message ?? "";
  } catch {
    // No JSON: the status has to do.
  }
  if (response.status === 401) return new Trouble("The server asks for an API key.", 401);
  if (response.status === 503) return new Trouble(`The server is busy: ${said || "try again in a moment"}.`, 503);
  return new Trouble(said || `The server answered with status ${response.status}.`, response.status);
}

async function getJson(path) {
  let response;
  try {
    response = await fetch(path, { headers: headersOf() });
  } catch {
    throw new Trouble("The server cannot be reached.");
  }
  if (!response.ok) throw await troubleOf(response);
  return response.json();
}

// The data of each event of a stream. Comments, which say that the server is still there, are left out.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

function bodyOf(messages, model) {
  const { values } = settings, body = {
    model, messages, stream: true, stream_options: { include_usage: true }, return_progress: true,
  };
  if (values.system.trim() && messages[0]?.role !== "system") body.messages = [{ role: "system", content: values.system }, ...messages];
  body.reasoning_effort = values.think;
  if (values.temperature !== "") body.temperature = Number(values.temperature);
  if (values.tokens !== "") body.max_tokens = Number(values.tokens);
  return body;
}

// Asks for an answer. on: {progress, think, text, end, usage}. Throws Trouble; an AbortError when stopped.
async function ask(messages, model, signal, on) {
  let response, finished = false;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST", signal, headers: headersOf({ "Content-Type": "application/json" }),
      body: JSON.stringify(bodyOf(messages, model)),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached.");
  }
  if (!response.ok) throw await troubleOf(response);
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Trouble(event.error.message ?? "The answer failed.");
      if (event.prompt_progress) on.progress(event.prompt_progress);
      if (event.usage) on.usage(event.usage);
      const choice = event.choices?.[0];
      if (choice?.delta?.reasoning_content) on.think(choice.delta.reasoning_content);
      if (choice?.delta?.content) on.text(choice.delta.content);
      if (choice?.finish_reason) {
        finished = true;
        on.end(choice.finish_details?.type ?? choice.finish_reason, event.timings ?? null);
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Trouble) throw error;
    throw new Trouble("The connection to the server was lost.");
  }
  if (!finished) throw new Trouble("The answer was cut off.");
}
