// An answer: pieces of text while it streams; after an inspection its tokens, and why each was chosen.
// The report's why.js explains a token. All text becomes text nodes.
const HOVER = 120; // ms of a pointer over the text before an inspection
let hintSeen = false; // whether any token has been explained yet

export function answer({ inspect }) {
  const output = h("div", { class: "told", role: "group" });
  const meta = h("p", { class: "meta" });
  const hint = h("p", { class: "hint", hidden: true }, "Point at a token, tap it or go to it by Tab to see why it was chosen.");
  const why = h("section", { class: "why", hidden: true });
  let shown = "", spans = [], inspection = null, state = "empty", current = -1, pinned = -1, target = 0, hoverTimer = 0, controller = null, isFirst = false;
  const showWhy = (...nodes) => { hintSeen = hint.hidden = true; why.hidden = false; why.replaceChildren(...nodes); };

  function clear() {
    controller?.abort();
    clearTimeout(hoverTimer);
    shown = ""; spans = []; inspection = null; controller = null; state = "streaming"; current = pinned = -1; target = 0;
    output.replaceChildren();
    meta.replaceChildren();
    why.hidden = hint.hidden = true;
  }

  function makeSpan(content, kinds, from) {
    const span = h("span", { class: ["token", ...kinds].join(" "), role: "button", tabindex: spans.length ? "-1" : "0", "aria-pressed": "false" }, content);
    spans.push(span);
    span.from = from;
    return span;
  }

  function add(text) {
    if (!text) return;
    output.append(makeSpan(text, [], shown.length));
    shown += text;
  }

  function end() {
    state = shown ? "done" : "empty";
    hint.hidden = !shown || hintSeen || !isFirst;
    if (!shown && !output.hasChildNodes()) output.append(h("span", { class: "ctl" }, "∅"));
  }

  // Replace the pieces by the tokens of an inspection.
  function showTokens(result) {
    const focused = spans.includes(document.activeElement), start = spans[target]?.from ?? 0;
    let from = 0;
    inspection = result;
    spans = [];
    for (const token of result.tokens) {
      const special = from >= shown.length && "special"; // EOS is not part of the text
      makeSpan(inText(token), [...tokenKinds(token), special].filter(Boolean), from);
      from += (token.text || "").length;
    }
    output.replaceChildren(...spans);
    show(Math.max(0, spans.findLastIndex((span) => span.from <= start)));
    if (focused) spans[current]?.focus();
  }

  async function explain(i) {
    target = i;
    if (inspection) { show(i); return; }
    if (state !== "done") return;
    state = "asking";
    controller = new AbortController();
    showWhy(h("p", { class: "note" }, "Reading it again with every step open …"));
    try {
      showTokens(await inspect(controller.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      showWhy(h("p", { class: "problem" }, error.message));
    }
    state = "done";
  }

  function show(i) {
    if (!spans[i]) return;
    if (spans[current]) { spans[current].classList.remove("seen"); spans[current].tabIndex = -1; }
    spans[0].tabIndex = -1;
    current = i;
    spans[i].classList.add("seen");
    spans[i].tabIndex = 0;
    showWhy(inspection.search ? overall(inspection) : "", ...explained(inspection, inspection.tokens[i]).filter(Boolean), h("p", { class: "hint" }, marks(inspection)));
  }

  function pin(i) {
    if (inspection) {
      spans[pinned]?.setAttribute("aria-pressed", "false");
      pinned = pinned === i ? -1 : i;
      spans[pinned]?.setAttribute("aria-pressed", "true");
    }
    explain(i);
  }

  const at = (event) => spans.indexOf(event.target.closest?.(".token"));
  output.addEventListener("pointerover", (event) => {
    const i = at(event);
    if (i < 0 || event.pointerType === "touch" || pinned >= 0) return;
    target = i;
    clearTimeout(hoverTimer);
    if (inspection) show(i); else hoverTimer = setTimeout(() => explain(target), HOVER);
  });
  output.addEventListener("pointerleave", () => clearTimeout(hoverTimer));
  output.addEventListener("click", (event) => { if (at(event) >= 0) pin(at(event)); });
  output.addEventListener("focusin", (event) => {
    if (at(event) >= 0 && event.target.matches(":focus-visible") && pinned < 0) explain(at(event));
  });
  output.addEventListener("keydown", (event) => {
    const i = at(event);
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(i); return; }
    const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (!spans[next]) return;
    event.preventDefault();
    if (pinned >= 0) pin(next);
    spans[next].focus();
  });

  return {
    box: [output, meta, hint, why], clear, add, end,
    name(label, first) {
      isFirst = first;
      output.setAttribute("aria-label", `answer of ${label}`);
      why.setAttribute("aria-label", `why, ${label}`);
    },
    get text() { return shown; },
    setMeta: (...nodes) => meta.replaceChildren(...nodes),
    fail: (message) => output.append(h("p", { class: "problem" }, message)),
  };
}
