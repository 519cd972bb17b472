// A server with the API that the page uses, whose answers a test writes: for what a model cannot be made to do.

import { readFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("../../web/", import.meta.url));
const types = { ".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".png": "image/png" };

const props = {
  model_alias: "stand-in",
  model_description: "",
  bundled_model: false,
  modalities: { vision: true, audio: false },
  kv: {
    policy: "retentive",
    budget: "20%",
    policies: [
      { name: "full", summary: "keeps everything", evicts: false },
      { name: "retentive", summary: "keeps what is likely to be read", evicts: true },
      { name: "streaming", summary: "keeps the first and the last tokens", evicts: true },
    ],
  },
};

const kv = {
  policy: "retentive", budget: "20%", budget_bytes: 2048, held_bytes: 1024, full_bytes: 10240,
  tokens_seen: 20, tokens_exact: 8, tokens_absorbed: 12, states: 2, reactivated: 1,
};
const memory = { kv, media: [], answer: [], heads: [], layers: [{ n_kv_head: 1 }], rungs: ["f16", "q8"] };

// `csp`: the policy that pages have. What is given back: `url`; `requests`, the bodies of questions; `stop()`; and what
// tests change: `props`, `memory`, `key`, and `answer`, an async function of a question's body and of what writes an event.
export async function startStandIn(csp) {
  const standIn = { requests: [], props, memory, key: "", answer: async () => {} };
  const event = (choice, more = {}) => ({ choices: [{ index: 0, finish_reason: null, ...choice }], ...more });
  const writer = (response) => {
    const write = (data) => response.write(`data: ${JSON.stringify(data)}\n\n`);
    return {
      response,
      text: (content) => write(event({ delta: { content } })),
      thoughts: (content) => write(event({ delta: { reasoning_content: content } })),
      end: (reason = "stop", tokens = 3) => {
        const timings = { prompt_n: 10, predicted_per_second: 20, prompt_per_second: 100 };
        write(event({ delta: {}, finish_reason: reason }, { conversation_id: "c1", timings, kv }));
        write({ choices: [], usage: { completion_tokens: tokens, prompt_tokens_details: { cached_tokens: 5 } } });
        response.end("data: [DONE]\n\n");
      },
    };
  };
  const sendJson = (response, body, status = 200) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(JSON.stringify(body));
  };
  const sendError = (response, status, message) => sendJson(response, { error: { code: status, message } }, status);
  const ask = async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    body = JSON.parse(body);
    standIn.requests.push(body);
    const failure = standIn.refuse?.(body);
    if (failure) return sendError(response, 400, failure);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.flushHeaders();
    await standIn.answer(body, writer(response));
  };
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const isApi = /^\/(v1\/|props|conversations\/)/.test(pathname);
    if (isApi && standIn.key && request.headers.authorization !== `Bearer ${standIn.key}`) {
      return sendError(response, 401, "this server needs an API key: Authorization: Bearer KEY");
    }
    if (pathname === "/props") return sendJson(response, standIn.props);
    if (pathname.startsWith("/conversations/")) return sendJson(response, standIn.memory);
    if (pathname === "/v1/chat/completions") return ask(request, response);
    const file = path.join(web, pathname === "/" ? "index.html" : pathname);
    response.writeHead(200, { "Content-Type": types[path.extname(file)], "Content-Security-Policy": csp });
    response.end(readFileSync(file));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  standIn.url = `http://127.0.0.1:${server.address().port}/`;
  standIn.stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return standIn;
}
