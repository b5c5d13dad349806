// One setting: a formula, its parameters, its sampling, its answer, and its plan.
import { ask, streamEvents } from "./server.js";
import { editor } from "./editor.js";
import { answer } from "./answer.js";
import { samplingFields, sliders } from "./fields.js";

const CHECK_DELAY = 140; // ms after a keystroke

export function column(state, page) {
  const button = (label, onclick, more) => h("button", { type: "button", class: "plain", onclick, ...more }, label);
  const { formulas, models, allow_formulas: anyFormula } = page.config;
  let valid = false, planError = "", checked = [], timer = 0, checking = null, running = null, request = null, seconds = 0;

  const nameSelect = h("select", { "aria-label": "named formula", onchange: () => { if (nameSelect.value) formula.value = formulas[nameSelect.value]; changed(); } },
    anyFormula && h("option", { value: "" }, "own formula"), Object.keys(formulas).map((name) => h("option", { value: name }, name)));
  const formula = editor({ label: "formula", value: state.formula, locked: !anyFormula, names: wordKind, changed });
  const params = sliders(state, { changed: checkSoon, forget: (param) => { delete state.declared[param]; delete state.values[param]; changed(); } });
  const plan = h("pre", { class: "plan", tabindex: "0", "aria-label": "the plan" });
  const cost = h("details", { class: "cost", ontoggle: showPlan }, h("summary", null, "The plan and its cost"), plan);
  const output = answer({ inspect });
  const runButton = button("Run", () => (running ? stop() : run()));
  const replyButton = button("Answer it", () => page.reply(output.text), { hidden: true });
  const removeButton = button("×", () => page.drop(handle), { "aria-label": "remove this setting" });
  const title = h("h2");
  const box = h("article", { class: "setting" },
    h("header", null, title, nameSelect, h("span", { class: "gap" }), runButton, button("Duplicate", () => page.copy(handle), { title: "the same again, beside it" }), removeButton),
    h("div", { class: "formula" }, formula.field, formula.error), params.box, samplingFields(state, () => { page.changed(); runIfLive(); }), h("div", { class: "result" }, output.box, replyButton, cost));

  const chosenName = () => Object.keys(formulas).find((name) => formulas[name] === state.formula);
  function wordKind(word, called) {
    if (checked.some((param) => param.name === word)) return "param";
    return models.includes(word) ? "model" : called ? "call" : null;
  }
  // The model of a request: a name, or a formula, in parentheses where it is the name of another.
  const model = () => chosenName() || (state.formula.trim() in formulas ? `(${state.formula})` : state.formula);
  const values = () => Object.fromEntries(checked.map((param) => [param.name, state.values[param.name] ?? param.value]));

  function changed() {
    state.formula = formula.value;
    valid = false;
    nameSelect.value = chosenName() || "";
    checkSoon();
  }
  function checkSoon() {
    page.changed();
    clearTimeout(timer);
    timer = setTimeout(async () => { if (await check()) runIfLive(); }, CHECK_DELAY);
  }
  function runIfLive() {
    if (page.isLive()) run();
  }

  // Check the formula and mark its mistake; returns whether there is none.
  async function check() {
    clearTimeout(timer);
    checking?.abort();
    const controller = (checking = new AbortController());
    let result;
    try {
      result = await ask("playground/check", { formula: state.formula, declared: state.declared, params: state.values }, controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") { planError = error.message; page.showError(error); showPlan(); }
      return false;
    }
    if (controller.signal.aborted) return false;
    page.clearNotice();
    if (result.params) { checked = result.params; params.fill(checked); }
    const missing = result.error?.declare;
    formula.showError(result.error, missing && button(`make ${missing} a parameter`, () => { state.declared[missing] = 0.5; changed(); formula.area.focus(); }));
    valid = !result.error;
    planError = "the formula has a mistake";
    showPlan();
    return valid;
  }

  async function showPlan() {
    if (!cost.open) return;
    if (!valid) { plan.textContent = planError; return; }
    try {
      plan.textContent = (await ask("playground/plan", { model: model(), params: values() })).plan;
    } catch (error) {
      plan.textContent = error.message;
    }
  }

  async function run() {
    if (!page.requirePrompt()) return;
    stop();
    const controller = (running = new AbortController());
    updateBusy();
    if (await check() && running === controller) await stream(controller.signal);
    if (running !== controller) return; // stopped, or replaced by another run
    running = null;
    updateBusy();
  }

  async function stream(signal) {
    const { temperature, max_tokens } = state, seed = state.seed ?? Math.floor(Math.random() * 2 ** 31);
    const prompt = page.promptFields(), chat = "messages" in prompt, start = performance.now();
    const ids = [];
    request = { model: model(), params: values(), ...prompt, temperature, seed, token_ids: ids };
    let first = 0, pieces = 0, ended = "";
    output.clear();
    replyButton.hidden = true;
    const showMeta = () => {
      const rate = pieces > 1 ? (ids.length - 1) / (seconds - first) : 0; // a search has one piece
      output.setMeta([count(ids.length, "token"), rate && `${rate.toFixed(rate < 20 ? 1 : 0)}/s`, `${seconds.toFixed(2)} s`, `seed ${seed}`, ended].filter(Boolean).join(" · "));
    };
    try {
      const body = { model: request.model, ...prompt, temperature, max_tokens, seed, params: request.params, return_token_ids: true };
      for await (const event of streamEvents(chat ? "v1/chat/completions" : "v1/completions", body, signal)) {
        const choice = event.choices?.[0], text = choice && (chat ? choice.delta?.content : choice.text);
        seconds = (performance.now() - start) / 1000;
        ids.push(...(choice?.token_ids || []));
        if (text) { first ||= seconds; pieces += 1; output.add(text); }
        if (choice?.finish_reason) ended = `ended by ${choice.finish_reason}`;
        showMeta();
      }
      page.announce(`${title.textContent}: ${count(ids.length, "token")}`);
    } catch (error) {
      if (error.name === "AbortError") { ended = "stopped"; showMeta(); }
      else { output.fail(error.message); page.showError(error, title.textContent); }
    }
    output.end();
    replyButton.hidden = !chat || !output.text;
  }

  function updateBusy() {
    runButton.textContent = running ? "Stop" : "Run";
    box.setAttribute("aria-busy", String(Boolean(running)));
    page.updateStop();
  }
  function stop() {
    if (!running) return;
    running.abort();
    running = null;
    updateBusy();
  }
  function inspect(signal) { return ask("playground/inspect", request, signal); }

  const handle = {
    box, state, run, stop, check,
    get running() { return running !== null; },
    focus: () => formula.area.focus(),
    setIndex(i, alone) {
      title.replaceChildren(mark(i), String.fromCharCode(65 + i));
      box.setAttribute("aria-label", `setting ${title.textContent}`);
      output.name(`setting ${title.textContent}`, i === 0);
      removeButton.hidden = alone;
    },
  };
  nameSelect.value = chosenName() || "";
  nameSelect.hidden = !Object.keys(formulas).length;
  return handle;
}
