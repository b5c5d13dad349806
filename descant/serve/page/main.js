// The page: one prompt, settings side by side, and the link that holds them.
import { ask, key } from "./server.js";
import { MOST, read, written } from "./link.js";
import { promptBox } from "./prompt.js";
import { column } from "./setting.js";

const by = (id) => document.getElementById(id);
const NOTE = 400; // ms before a change is in the address
const known = { formulas: {}, models: [], allow_formulas: false };
let state = null, prompt = null, columns = [], timer = 0, typing = 0, passing = false;

const say = (text) => { by("said").textContent = text; };
function notice(text, passes = false) {
  passing = passes;
  by("notice").textContent = text;
  by("notice").hidden = !text;
}
function wrong(error, where) {
  if (error.status === 401 || error.status === 403) {
    by("key").hidden = false;
    by("key").open = true;
    by("key-text").focus();
  }
  if (!where) notice(error.message, true);
  say(where ? `${where}: ${error.message}` : error.message);
}

const page = {
  known, say, wrong,
  well() { if (passing) notice(""); },
  live: () => by("live").checked && !prompt.empty,
  ready() {
    if (prompt.empty) { notice("Write a prompt first.", true); say("write a prompt first"); prompt.focus(); }
    return !prompt.empty;
  },
  prompt: () => prompt.asked,
  changed() { clearTimeout(timer); timer = setTimeout(remember, NOTE); },
  busy() { by("stop").disabled = !columns.some((one) => one.running); },
  reply(text) { prompt.append({ role: "assistant", content: text }, { role: "user", content: "" }); },
  copy(one) { if (columns.length < MOST) insert(columns.indexOf(one) + 1, structuredClone(one.state)).focus(); },
  drop(one) {
    one.stop();
    const i = columns.indexOf(one);
    columns.splice(i, 1);
    state.settings.splice(i, 1);
    one.box.remove();
    placed();
    page.changed();
    (columns[i] || columns[i - 1]).focus();
  },
};

function insert(i, setting) {
  const made = column(setting, page);
  columns.splice(i, 0, made);
  state.settings.splice(i, 0, setting);
  by("settings").insertBefore(made.box, by("settings").children[i] || null);
  placed();
  page.changed();
  made.check();
  return made;
}
function placed() {
  columns.forEach((one, i) => one.place(i, columns.length === 1));
  by("settings").style.setProperty("--columns", columns.length);
  by("add").disabled = columns.length >= MOST;
}

const remember = () => { clearTimeout(timer); if (state) history.replaceState(null, "", written(state)); };
const fresh = (formula) => ({ formula, values: {}, declared: {}, seed: 0, temperature: known.temperature ?? 1, max_tokens: known.max_tokens });
function first() {
  const found = Object.values(known.formulas).slice(0, 2).map(fresh);
  return { kind: "text", text: "", messages: [], settings: found.length ? found : [fresh("")] };
}

function restore() {
  let found = null;
  notice("");
  try {
    found = read(location.hash);
  } catch (error) {
    notice(`This link cannot be read: ${error.message}.`);
  }
  for (const one of columns) one.stop();
  clearTimeout(timer);
  clearTimeout(typing);
  const { settings, ...rest } = found || first();
  columns = [];
  state = { ...rest, settings: [] };
  by("settings").replaceChildren();
  prompt = promptBox(state, prompted);
  by("prompt").replaceChildren(...prompt.box);
  settings.forEach((one, i) => insert(i, one));
  clearTimeout(timer); // an address that was opened stays as it is until something changes
}

// Another prompt is the same change for every setting.
function prompted() {
  page.well();
  page.changed();
  clearTimeout(typing);
  if (page.live()) typing = setTimeout(runAll, NOTE);
}

function runAll() {
  if (!page.ready()) return;
  say(`running ${count(columns.length, "setting")}`);
  for (const one of columns) one.run();
}
const stopAll = () => { for (const one of columns) one.stop(); };

async function share() {
  remember();
  by("link").value = location.href;
  by("link-row").hidden = false;
  by("link").focus();
  by("link").select();
  try {
    await navigator.clipboard.writeText(location.href);
    say("the link is copied");
    by("share").textContent = "Copied";
    setTimeout(() => { by("share").textContent = "Copy link"; }, 1500);
  } catch {
    say("copy the link from its field");
  }
}

async function begin() {
  try {
    Object.assign(known, await ask("playground/known"));
  } catch (error) {
    wrong(error);
    return;
  }
  notice("");
  const names = Object.keys(known.formulas);
  by("facts").textContent = [`models: ${known.models.join(", ")}`, names.length && `formulas: ${names.join(", ")}`,
    known.allow_formulas ? "" : "this server decodes its named formulas alone"].filter(Boolean).join(" · ");
  by("key").hidden = !known.keys;
  restore();
}

by("key-text").value = key.get();
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(by("key-text").value.trim());
  by("key").open = false;
  notice("");
  if (!state) begin();
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
begin();
