// The field of a formula: a text area over the same text in colours, with a mistake underlined.
const WORDS = /("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)|((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|([A-Za-z_]\w*)|(\|)/g;

// The pieces of a text: [from, to, class].
function pieces(text, names) {
  const result = [];
  let last = 0;
  for (const match of text.matchAll(WORDS)) {
    const [word, quoted, number, name] = match, from = match.index, to = from + word.length;
    const kind = quoted ? "quoted" : number ? "number" : name ? names(name, text.slice(to).trimStart()[0] === "(") : "pipe";
    if (from > last) result.push([last, from, null]);
    result.push([from, to, kind]);
    last = to;
  }
  if (last < text.length) result.push([last, text.length, null]);
  return result;
}

function highlighted(text, names, wrong) {
  const nodes = [];
  const put = (from, to, kind, bad) => nodes.push(h("span", { class: [kind, bad && "wrong"].filter(Boolean).join(" ") || null }, text.slice(from, to)));
  for (const [from, to, kind] of pieces(text, names)) {
    const [low, high] = wrong ? [Math.max(from, wrong.start), Math.min(to, wrong.end)] : [0, 0];
    if (low >= high) { put(from, to, kind, false); continue; }
    if (from < low) put(from, low, kind, false);
    put(low, high, kind, true);
    if (high < to) put(high, to, kind, false);
  }
  if (wrong && wrong.start >= text.length) nodes.push(h("span", { class: "wrong" }, "\u00a0"));
  nodes.push("\u200b"); // gives an empty last line its height
  return nodes;
}

let editors = 0; // for their ids

export function editor({ label, value, locked, names, changed }) {
  const behind = h("div", { class: "behind", "aria-hidden": "true" });
  const id = `wrong-${editors += 1}`;
  const area = h("textarea", { "aria-label": label, "aria-describedby": id, spellcheck: "false", autocapitalize: "off", autocomplete: "off", autocorrect: "off", rows: "1", readonly: locked, oninput: () => { paint(null); changed(); } });
  const error = h("div", { id, class: "error", "aria-live": "polite" });
  const field = h("div", { class: "editor" }, behind, area);
  area.value = value;
  function paint(wrong) {
    behind.replaceChildren(...highlighted(area.value, names, wrong));
    if (wrong) area.setAttribute("aria-invalid", "true"); else area.removeAttribute("aria-invalid");
  }
  paint(null);
  return {
    field, error, area,
    get value() { return area.value; },
    set value(text) { area.value = text; paint(null); },
    // Underline a mistake and show its message, or clear both. `cure` is a button that mends it.
    showError(wrong, cure) {
      paint(wrong);
      error.replaceChildren(...(wrong ? [h("p", { class: "problem" }, wrong.problem), wrong.cure && h("p", { class: "cure" }, wrong.cure), cure].filter(Boolean) : []));
    },
  };
}
