// Numbers of a setting: sliders for the formula's parameters, and how its tokens are drawn.
const finite = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : undefined);
const whole = (text) => (/^-?\d+$/.test(text.trim()) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined);
const least = (low, read) => (text) => { const value = read(text); return value === undefined || value < low ? undefined : value; };

// A field that takes what it can read, and shows what it cannot.
function exactly(attributes, read, take) {
  const input = h("input", { type: "number", autocomplete: "off", step: "any", ...attributes, oninput: () => {
    const value = read(input.value);
    if (value === undefined) input.setAttribute("aria-invalid", "true"); else input.removeAttribute("aria-invalid");
    if (value !== undefined) take(value);
  } });
  return input;
}

export function drawing(state, changed) {
  const fields = [
    ["temperature", "temperature", "0 takes the best token", { min: 0, step: 0.1, inputmode: "decimal" }, least(0, finite)],
    ["seed", "seed", "of the noise; empty: a new one each time", { step: 1, placeholder: "new" }, (text) => (text.trim() === "" ? null : whole(text))],
    ["max_tokens", "tokens", "at most", { min: 1, step: 1, inputmode: "numeric" }, least(1, whole)],
  ];
  return h("div", { class: "draws" }, fields.map(([key, label, title, attributes, read]) => {
    const input = exactly(attributes, read, (value) => { state[key] = value; changed(); });
    input.value = state[key] ?? "";
    return h("label", { title }, label, input);
  }));
}

export function sliders(state, { changed, forget }) {
  const box = h("div", { class: "sliders" });
  let shape = "";
  function row({ name, value, low, high, step }) {
    const now = state.values[name] ?? value;
    const take = (given, other) => { state.values[name] = given; other.value = given; changed(); };
    const range = h("input", { type: "range", min: Math.min(low, now), max: Math.max(high, now), step, "aria-label": name, oninput: () => { exact.removeAttribute("aria-invalid"); take(Number(range.value), exact); } });
    const exact = exactly({ inputmode: "decimal", "aria-label": `${name}, exactly` }, finite, (given) => take(given, range));
    range.value = exact.value = now;
    const own = Object.hasOwn(state.declared, name);
    const away = own && h("button", { type: "button", class: "plain away", "aria-label": `${name} is no parameter`, onclick: () => forget(name) }, "×");
    return [h("span", null, h("code", null, name), away), range, exact];
  }
  return {
    box,
    fill(params) {
      if (JSON.stringify(params) === shape) return; // one that is being moved stays
      shape = JSON.stringify(params);
      box.replaceChildren(...params.flatMap(row));
    },
  };
}
