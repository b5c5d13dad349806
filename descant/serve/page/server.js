// Requests to the server: JSON, and streams of completions. The key is sent nowhere else.
const KEY_NAME = "descant-key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY_NAME) || ""; } catch { return ""; } },
  set: (value) => { try { if (value) sessionStorage.setItem(KEY_NAME, value); else sessionStorage.removeItem(KEY_NAME); } catch { /* no storage: no key */ } },
};

export class RequestError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

async function errorOf(response) {
  const text = await response.text();
  let message = "";
  try {
    const body = JSON.parse(text), error = body.error ?? body.detail ?? body;
    message = typeof error === "string" ? error : Array.isArray(error) ? error.map((item) => `${(item.loc || []).slice(1).join(".")}: ${item.msg}`).join("\n") : error.message;
  } catch { /* another server's error */ }
  const wait = response.status === 429 && response.headers.get("Retry-After");
  if (wait) message = `${message || "the server is busy"}\ntry again in ${wait} s`;
  return new RequestError(message || `the server answered ${response.status} ${response.statusText}`, response.status);
}

async function send(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("the server cannot be reached", 0);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

export const ask = async (path, body, signal) => (await send(path, body, signal)).json();

// The events of a stream of server-sent events, as objects.
export async function* streamEvents(path, body, signal) {
  const response = await send(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new RequestError("the server went away before the end", 0); // each browser has other words for it
    });
    buffer += value || "";
    const lines = buffer.split(/\r\n|\n|\r(?!$)/);
    buffer = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new RequestError(event.error.message || String(event.error), event.error.code || 0);
      yield event;
    }
    if (done) throw new RequestError("the server went away before the end", 0);
  }
}
