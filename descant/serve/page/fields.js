// The numbers of a setting: sliders for the parameters of its formula, and its sampling.
const finite = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : undefined);
const integer = (text) => (/^-?\d+$/.test(text.trim()) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined);
const atLeast = (low, read) => (text) => { const value = read(text); return value === undefined || value < low ? undefined : value; };

// A number field; an invalid number is marked and not taken.
function numberField(attributes, read, take) {
  const input = h("input", { type: "number", autocomplete: "off", step: "any", ...attributes, oninput: () => {
    const value = read(input.value);
    if (value === undefined) input.setAttribute("aria-invalid", "true"); else input.removeAttribute("aria-invalid");
    if (value !== undefined) take(value);
  } });
  return input;
}

export function samplingFields(state, changed) {
  const fields = [
    ["temperature", "temperature", "0 takes the best token", { min: 0, step: 0.1, inputmode: "decimal" }, atLeast(0, finite)],
    ["seed", "seed", "of the noise; empty: a new one each time", { step: 1, placeholder: "new" }, (text) => (text.trim() === "" ? null : integer(text))],
    ["max_tokens", "tokens", "at most", { min: 1, step: 1, inputmode: "numeric" }, atLeast(1, integer)],
  ];
  return h("div", { class: "sampling" }, fields.map(([key, label, title, attributes, read]) => {
    const input = numberField(attributes, read, (value) => { state[key] = value; changed(); });
    input.value = state[key] ?? "";
    return h("label", { title }, label, input);
  }));
}

export function sliders(state, { changed, forget }) {
  const box = h("div", { class: "sliders" });
  let filled = "";
  function row({ name, value, low, high, step }) {
    const current = state.values[name] ?? value;
    const take = (number, other) => { state.values[name] = number; other.value = number; changed(); };
    const range = h("input", { type: "range", min: Math.min(low, current), max: Math.max(high, current), step, "aria-label": name, oninput: () => { exact.removeAttribute("aria-invalid"); take(Number(range.value), exact); } });
    const exact = numberField({ inputmode: "decimal", "aria-label": `${name}, exactly` }, finite, (number) => take(number, range));
    range.value = exact.value = current;
    const isDeclared = Object.hasOwn(state.declared, name);
    const remove = isDeclared && h("button", { type: "button", class: "plain away", "aria-label": `${name} is no parameter`, onclick: () => forget(name) }, "×");
    return [h("span", null, h("code", null, name), remove), range, exact];
  }
  return {
    box,
    fill(params) {
      if (JSON.stringify(params) === filled) return; // so that a slider in motion is not replaced
      filled = JSON.stringify(params);
      box.replaceChildren(...params.flatMap(row));
    },
  };
}
