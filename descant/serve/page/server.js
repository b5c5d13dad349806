// What the page asks of the server: JSON, and completions as they come. The key goes nowhere else.
const KEPT = "descant-key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEPT) || ""; } catch { return ""; } },
  set: (value) => { try { if (value) sessionStorage.setItem(KEPT, value); else sessionStorage.removeItem(KEPT); } catch { /* no storage: no key */ } },
};

export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

async function refusal(response) {
  const text = await response.text();
  let said = "";
  try {
    const body = JSON.parse(text), error = body.error ?? body.detail ?? body;
    said = typeof error === "string" ? error : Array.isArray(error) ? error.map((one) => `${(one.loc || []).slice(1).join(".")}: ${one.msg}`).join("\n") : error.message;
  } catch { /* not ours: its status says what it is */ }
  const wait = response.status === 429 && response.headers.get("Retry-After");
  if (wait) said = `${said || "the server is busy"}\ntry again in ${wait} s`;
  return new Refused(said || `the server answered ${response.status} ${response.statusText}`, response.status);
}

async function asked(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the server cannot be reached", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const ask = async (path, body, signal) => (await asked(path, body, signal)).json();

// The events of a stream of server-sent events, as objects.
export async function* streamed(path, body, signal) {
  const response = await asked(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused("the server went away before the end", 0); // each browser has other words for it
    });
    rest += value || "";
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message || String(event.error), event.error.code || 0);
      yield event;
    }
    if (done) throw new Refused("the server went away before the end", 0);
  }
}
