// A setting as a link: all of it behind the #, as base64url of JSON. Reading one starts nothing.
export const MOST = 6;
const LENGTH = 200_000, ROLES = ["system", "user", "assistant"];
const number = (value) => typeof value === "number" && Number.isFinite(value);
const text = (value) => typeof value === "string" && value.length <= 100_000;
const record = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const numbers = (value) => record(value) && Object.entries(value).every(([name, one]) => /^[A-Za-z_]\w{0,99}$/.test(name) && number(one));

const setting = (one) => record(one) && text(one.formula) && numbers(one.values) && numbers(one.declared)
  && (one.seed === null || Number.isSafeInteger(one.seed)) && number(one.temperature) && Number.isSafeInteger(one.max_tokens);
const message = (one) => record(one) && ROLES.includes(one.role) && text(one.content);
const whole = (state) => record(state) && state.v === 1 && ["text", "chat"].includes(state.kind) && text(state.text)
  && Array.isArray(state.messages) && state.messages.length <= 64 && state.messages.every(message)
  && Array.isArray(state.settings) && state.settings.length >= 1 && state.settings.length <= MOST && state.settings.every(setting);

export function written(state) {
  const bytes = new TextEncoder().encode(JSON.stringify({ v: 1, ...state }));
  let plain = "";
  for (const byte of bytes) plain += String.fromCharCode(byte);
  return `#${btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

// The state that a fragment holds; null where there is none; throws where it cannot be read.
export function read(fragment) {
  const said = fragment.replace(/^#/, "");
  if (!said || said === "prompt") return null;
  if (said.length > LENGTH) throw new Error("it is too long");
  let state;
  try {
    const plain = atob(said.replaceAll("-", "+").replaceAll("_", "/"));
    state = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(plain, (one) => one.charCodeAt(0))));
  } catch {
    throw new Error("it is damaged");
  }
  if (!whole(state)) throw new Error("it is not of this page");
  return state;
}
