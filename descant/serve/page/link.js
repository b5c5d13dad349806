// The state of the page as a link: behind the #, as base64url of JSON.
export const MOST = 6;
const LENGTH = 200_000, ROLES = ["system", "user", "assistant"];
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string" && value.length <= 100_000;
const isRecord = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const areNumbers = (value) => isRecord(value) && Object.entries(value).every(([name, number]) => /^[A-Za-z_]\w{0,99}$/.test(name) && isNumber(number));

const isSetting = (value) => isRecord(value) && isText(value.formula) && areNumbers(value.values) && areNumbers(value.declared)
  && (value.seed === null || Number.isSafeInteger(value.seed)) && isNumber(value.temperature) && Number.isSafeInteger(value.max_tokens);
const isMessage = (value) => isRecord(value) && ROLES.includes(value.role) && isText(value.content);
const isState = (state) => isRecord(state) && state.v === 1 && ["text", "chat"].includes(state.kind) && isText(state.text)
  && Array.isArray(state.messages) && state.messages.length <= 64 && state.messages.every(isMessage)
  && Array.isArray(state.settings) && state.settings.length >= 1 && state.settings.length <= MOST && state.settings.every(isSetting);

export function encode(state) {
  const bytes = new TextEncoder().encode(JSON.stringify({ v: 1, ...state }));
  let plain = "";
  for (const byte of bytes) plain += String.fromCharCode(byte);
  return `#${btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

// The state in a fragment, or null where there is none.
export function decode(fragment) {
  const encoded = fragment.replace(/^#/, "");
  if (!encoded || encoded === "prompt") return null;
  if (encoded.length > LENGTH) throw new Error("it is too long");
  let state;
  try {
    const plain = atob(encoded.replaceAll("-", "+").replaceAll("_", "/"));
    state = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(plain, (value) => value.charCodeAt(0))));
  } catch {
    throw new Error("it is damaged");
  }
  if (!isState(state)) throw new Error("it is not of this page");
  return state;
}
