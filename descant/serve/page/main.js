// The page: one prompt, settings side by side, and the link that holds them.
import { ask, key } from "./server.js";
import { MOST, decode, encode } from "./link.js";
import { promptBox } from "./prompt.js";
import { column } from "./setting.js";

const by = (id) => document.getElementById(id);
const DELAY = 400; // ms from a change to the address, or to another run
const config = { formulas: {}, models: [], allow_formulas: false };
let state = null, prompt = null, columns = [], timer = 0, typing = 0, noticeIsTemporary = false;

const announce = (text) => { by("status").textContent = text; };
function notice(text, temporary = false) {
  noticeIsTemporary = temporary;
  by("notice").textContent = text;
  by("notice").hidden = !text;
}
function showError(error, where) {
  if (error.status === 401 || error.status === 403) {
    by("key").hidden = false;
    by("key").open = true;
    by("key-text").focus();
  }
  if (!where) notice(error.message, true);
  announce(where ? `${where}: ${error.message}` : error.message);
}

const page = {
  config, announce, showError,
  clearNotice() { if (noticeIsTemporary) notice(""); },
  isLive: () => by("live").checked && !prompt.empty,
  requirePrompt() {
    if (prompt.empty) { notice("Write a prompt first.", true); announce("write a prompt first"); prompt.focus(); }
    return !prompt.empty;
  },
  promptFields: () => prompt.fields,
  changed() { clearTimeout(timer); timer = setTimeout(saveLink, DELAY); },
  updateStop() { by("stop").disabled = !columns.some((each) => each.running); },
  reply(text) { prompt.append({ role: "assistant", content: text }, { role: "user", content: "" }); },
  copy(from) { if (columns.length < MOST) insert(columns.indexOf(from) + 1, structuredClone(from.state)).focus(); },
  drop(dropped) {
    dropped.stop();
    const i = columns.indexOf(dropped);
    columns.splice(i, 1);
    state.settings.splice(i, 1);
    dropped.box.remove();
    renumber();
    page.changed();
    (columns[i] || columns[i - 1]).focus();
  },
};

function insert(i, setting) {
  const added = column(setting, page);
  columns.splice(i, 0, added);
  state.settings.splice(i, 0, setting);
  by("settings").insertBefore(added.box, by("settings").children[i] || null);
  renumber();
  page.changed();
  added.check();
  return added;
}
function renumber() {
  columns.forEach((each, i) => each.setIndex(i, columns.length === 1));
  by("settings").style.setProperty("--columns", columns.length);
  by("add").disabled = columns.length >= MOST;
}

const saveLink = () => { clearTimeout(timer); if (state) history.replaceState(null, "", encode(state)); };
const fresh = (formula) => ({ formula, values: {}, declared: {}, seed: 0, temperature: config.temperature ?? 1, max_tokens: config.max_tokens });
function firstState() {
  const settings = Object.values(config.formulas).slice(0, 2).map(fresh);
  return { kind: "text", text: "", messages: [], settings: settings.length ? settings : [fresh("")] };
}

function restore() {
  let saved = null;
  notice("");
  try {
    saved = decode(location.hash);
  } catch (error) {
    notice(`This link cannot be read: ${error.message}.`);
  }
  for (const each of columns) each.stop();
  clearTimeout(timer);
  clearTimeout(typing);
  const { settings, ...rest } = saved || firstState();
  columns = [];
  state = { ...rest, settings: [] };
  by("settings").replaceChildren();
  prompt = promptBox(state, promptChanged);
  by("prompt").replaceChildren(...prompt.box);
  settings.forEach((setting, i) => insert(i, setting));
  clearTimeout(timer); // an opened address stays until something changes
}

// Another prompt changes every setting.
function promptChanged() {
  page.clearNotice();
  page.changed();
  clearTimeout(typing);
  if (page.isLive()) typing = setTimeout(runAll, DELAY);
}

function runAll() {
  if (!page.requirePrompt()) return;
  announce(`running ${count(columns.length, "setting")}`);
  for (const each of columns) each.run();
}
const stopAll = () => { for (const each of columns) each.stop(); };

async function share() {
  saveLink();
  by("link").value = location.href;
  by("link-row").hidden = false;
  by("link").focus();
  by("link").select();
  try {
    await navigator.clipboard.writeText(location.href);
    announce("the link is copied");
    by("share").textContent = "Copied";
    setTimeout(() => { by("share").textContent = "Copy link"; }, 1500);
  } catch {
    announce("copy the link from its field");
  }
}

async function start() {
  try {
    Object.assign(config, await ask("playground/known"));
  } catch (error) {
    showError(error);
    return;
  }
  notice("");
  const names = Object.keys(config.formulas);
  by("facts").textContent = [`models: ${config.models.join(", ")}`, names.length && `formulas: ${names.join(", ")}`,
    config.allow_formulas ? "" : "this server decodes its named formulas alone"].filter(Boolean).join(" · ");
  by("key").hidden = !config.keys;
  restore();
}

by("key-text").value = key.get();
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(by("key-text").value.trim());
  by("key").open = false;
  notice("");
  if (!state) start();
});
by("run").querySelector("kbd").textContent = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
by("run").addEventListener("click", runAll);
by("stop").addEventListener("click", stopAll);
by("share").addEventListener("click", share);
by("add").addEventListener("click", () => insert(columns.length, columns.length ? structuredClone(columns.at(-1).state) : fresh("")).focus());
by("skip").addEventListener("click", (event) => { event.preventDefault(); prompt?.focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state) { event.preventDefault(); runAll(); }
  if (event.key === "Escape") stopAll();
});
window.addEventListener("hashchange", () => { if (state) restore(); });
start();
