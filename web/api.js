// The server's endpoints. Errors are Error objects whose message is for the user.

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, { key, ...options } = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const again = response.headers.get("Retry-After");
  let message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  if (response.status === 401) message = key ? "The API key is wrong." : "This server needs an API key: enter it in the settings.";
  throw new ServerError(response.status, again ? `${message} (Retry in ${again} s.)` : message);
}

export async function getJson(path, key) {
  return (await request(path, { key })).json();
}

// What the connection gives next.
async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The connection to the server broke off.");
  }
}

// Sends a chat request and calls onText with each piece of the answer, and onThoughts with what the model thought
// before. Returns the last event, which has finish_reason, timings, kv and conversation_id, with usage added to it.
export async function streamChat(body, key, signal, { onText, onThoughts }) {
  const response = await request("v1/chat/completions", {
    key,
    signal,
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let last = null;
  let usage = null;
  while (true) {
    const { done, value } = await read(reader);
    if (done) break;
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const data = JSON.parse(event.slice("data: ".length));
      if (data.error) throw new ServerError(data.error.code, data.error.message);
      if (data.usage) usage = data.usage;
      const choice = data.choices[0];
      if (choice?.delta?.reasoning_content) onThoughts(choice.delta.reasoning_content);
      if (choice?.delta?.content) onText(choice.delta.content);
      if (choice?.finish_reason) last = data;
    }
  }
  if (!last) throw new ServerError(0, "The connection ended before the answer did.");
  return { ...last, usage };
}
