// One setting: a formula, its parameters, how it is drawn, what came of it, and what it costs.
import { ask, streamed } from "./server.js";
import { editor } from "./editor.js";
import { answer } from "./answer.js";
import { drawing, sliders } from "./fields.js";

const SOON = 140; // ms without a keystroke before a formula is looked at

export function column(state, page) {
  const button = (label, onclick, more) => h("button", { type: "button", class: "plain", onclick, ...more }, label);
  const { formulas, models, allow_formulas: free } = page.known;
  let right = false, amiss = "", checked = [], timer = 0, asking = null, running = null, last = null, seconds = 0;

  const choose = h("select", { "aria-label": "named formula", onchange: () => { if (choose.value) edit.value = formulas[choose.value]; changed(); } },
    free && h("option", { value: "" }, "own formula"), Object.keys(formulas).map((one) => h("option", { value: one }, one)));
  const edit = editor({ label: "formula", value: state.formula, locked: !free, names: kind, changed });
  const params = sliders(state, { changed: later, forget: (one) => { delete state.declared[one]; delete state.values[one]; changed(); } });
  const plan = h("pre", { class: "plan", tabindex: "0", "aria-label": "the plan" });
  const cost = h("details", { class: "cost", ontoggle: planned }, h("summary", null, "The plan and its cost"), plan);
  const out = answer({ inspect: reasons });
  const runner = button("Run", () => (running ? stop() : run()));
  const reply = button("Answer it", () => page.reply(out.text), { hidden: true });
  const drop = button("×", () => page.drop(me), { "aria-label": "remove this setting" });
  const title = h("h2");
  const box = h("article", { class: "setting" },
    h("header", null, title, choose, h("span", { class: "gap" }), runner, button("Duplicate", () => page.copy(me), { title: "the same again, beside it" }), drop),
    h("div", { class: "formula" }, edit.field, edit.error), params.box, drawing(state, () => { page.changed(); again(); }), h("div", { class: "result" }, out.box, reply, cost));

  const named = () => Object.keys(formulas).find((one) => formulas[one] === state.formula);
  function kind(word, called) {
    if (checked.some((one) => one.name === word)) return "param";
    return models.includes(word) ? "model" : called ? "call" : null;
  }
  // What the server is asked for: a name, or a formula, in parentheses where it reads as another's name.
  const model = () => named() || (state.formula.trim() in formulas ? `(${state.formula})` : state.formula);
  const values = () => Object.fromEntries(checked.map((one) => [one.name, state.values[one.name] ?? one.value]));

  function changed() {
    state.formula = edit.value;
    right = false;
    choose.value = named() || "";
    later();
  }
  function later() {
    page.changed();
    clearTimeout(timer);
    timer = setTimeout(async () => { if (await check()) again(); }, SOON);
  }
  function again() {
    if (page.live()) run();
  }

  // Whether the formula is one; what is wrong with it is shown at the place.
  async function check() {
    clearTimeout(timer);
    asking?.abort();
    const mine = (asking = new AbortController());
    let said;
    try {
      said = await ask("playground/check", { formula: state.formula, declared: state.declared, params: state.values }, mine.signal);
    } catch (error) {
      if (error.name !== "AbortError") { amiss = error.message; page.wrong(error); planned(); }
      return false;
    }
    if (mine.signal.aborted) return false;
    page.well();
    if (said.params) { checked = said.params; params.fill(checked); }
    const missing = said.error?.declare;
    edit.tell(said.error, missing && button(`make ${missing} a parameter`, () => { state.declared[missing] = 0.5; changed(); edit.area.focus(); }));
    right = !said.error;
    amiss = "the formula has a mistake";
    planned();
    return right;
  }

  async function planned() {
    if (!cost.open) return;
    if (!right) { plan.textContent = amiss; return; }
    try {
      plan.textContent = (await ask("playground/plan", { model: model(), params: values() })).plan;
    } catch (error) {
      plan.textContent = error.message;
    }
  }

  async function run() {
    if (!page.ready()) return;
    stop();
    const mine = (running = new AbortController());
    busy();
    if (await check() && running === mine) await stream(mine.signal);
    if (running !== mine) return; // stopped, or another run has taken its place
    running = null;
    busy();
  }

  async function stream(signal) {
    const { temperature, max_tokens } = state, seed = state.seed ?? Math.floor(Math.random() * 2 ** 31);
    const asks = page.prompt(), chat = "messages" in asks, start = performance.now();
    const ids = [];
    last = { model: model(), params: values(), ...asks, temperature, seed, token_ids: ids };
    let first = 0, pieces = 0, ended = "";
    out.clear();
    reply.hidden = true;
    const say = () => {
      const rate = pieces > 1 ? (ids.length - 1) / (seconds - first) : 0; // a search comes in one
      out.say([count(ids.length, "token"), rate && `${rate.toFixed(rate < 20 ? 1 : 0)}/s`, `${seconds.toFixed(2)} s`, `seed ${seed}`, ended].filter(Boolean).join(" · "));
    };
    try {
      const body = { model: last.model, ...asks, temperature, max_tokens, seed, params: last.params, return_token_ids: true };
      for await (const event of streamed(chat ? "v1/chat/completions" : "v1/completions", body, signal)) {
        const choice = event.choices?.[0], text = choice && (chat ? choice.delta?.content : choice.text);
        seconds = (performance.now() - start) / 1000;
        ids.push(...(choice?.token_ids || []));
        if (text) { first ||= seconds; pieces += 1; out.add(text); }
        if (choice?.finish_reason) ended = `ended by ${choice.finish_reason}`;
        say();
      }
      page.say(`${title.textContent}: ${count(ids.length, "token")}`);
    } catch (error) {
      if (error.name === "AbortError") { ended = "stopped"; say(); }
      else { out.fail(error.message); page.wrong(error, title.textContent); }
    }
    out.end();
    reply.hidden = !chat || !out.text;
  }

  function busy() {
    runner.textContent = running ? "Stop" : "Run";
    box.setAttribute("aria-busy", String(Boolean(running)));
    page.busy();
  }
  function stop() {
    if (!running) return;
    running.abort();
    running = null;
    busy();
  }
  function reasons(signal) { return ask("playground/inspect", last, signal); }

  const me = {
    box, state, run, stop, check,
    get running() { return running !== null; },
    focus: () => edit.area.focus(),
    place(i, alone) {
      title.replaceChildren(mark(i), String.fromCharCode(65 + i));
      box.setAttribute("aria-label", `setting ${title.textContent}`);
      out.name(`setting ${title.textContent}`, i === 0);
      drop.hidden = alone;
    },
  };
  choose.value = named() || "";
  choose.hidden = !Object.keys(formulas).length;
  return me;
}
