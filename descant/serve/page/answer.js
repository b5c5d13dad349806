// An answer: pieces as they stream; then, once it has been read again, its tokens and why each.
// How a token is explained is the report's own (why.js). All text is text nodes.
const DWELL = 120; // ms of a pointer over the text before its reasons are asked for
let found_out = false; // that tokens have reasons: whoever has seen one need not be told

export function answer({ inspect }) {
  const told = h("div", { class: "told", role: "group" });
  const meta = h("p", { class: "meta" });
  const hint = h("p", { class: "hint", hidden: true }, "Point at a token, tap it or go to it by Tab to see why it was chosen.");
  const why = h("section", { class: "why", hidden: true });
  let shown = "", spans = [], found = null, state = "empty", now = -1, pinned = -1, wanted = 0, dwell = 0, asking = null, first = false;
  const tell = (...nodes) => { found_out = hint.hidden = true; why.hidden = false; why.replaceChildren(...nodes); };

  function clear() {
    asking?.abort();
    clearTimeout(dwell);
    shown = ""; spans = []; found = null; asking = null; state = "streaming"; now = pinned = -1; wanted = 0;
    told.replaceChildren();
    meta.replaceChildren();
    why.hidden = hint.hidden = true;
  }

  function spanned(content, kinds, from) {
    const span = h("span", { class: ["token", ...kinds].join(" "), role: "button", tabindex: spans.length ? "-1" : "0", "aria-pressed": "false" }, content);
    spans.push(span);
    span.from = from;
    return span;
  }

  function add(text) {
    if (!text) return;
    told.append(spanned(text, [], shown.length));
    shown += text;
  }

  function end() {
    state = shown ? "done" : "empty";
    hint.hidden = !shown || found_out || !first;
    if (!shown && !told.hasChildNodes()) told.append(h("span", { class: "ctl" }, "∅"));
  }

  // The pieces become tokens.
  function opened(said) {
    const focused = spans.includes(document.activeElement), place = spans[wanted]?.from ?? 0;
    let from = 0;
    found = said;
    spans = [];
    for (const one of said.tokens) {
      const special = from >= shown.length && "special"; // an end of the text is none of it
      spanned(inText(one), [...tokenKinds(one), special].filter(Boolean), from);
      from += (one.text || "").length;
    }
    told.replaceChildren(...spans);
    show(Math.max(0, spans.findLastIndex((span) => span.from <= place)));
    if (focused) spans[now]?.focus();
  }

  async function ask(i) {
    wanted = i;
    if (found) { show(i); return; }
    if (state !== "done") return;
    state = "asking";
    asking = new AbortController();
    tell(h("p", { class: "note" }, "Reading it again with every step open …"));
    try {
      opened(await inspect(asking.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      tell(h("p", { class: "problem" }, error.message));
    }
    state = "done";
  }

  function show(i) {
    if (!spans[i]) return;
    if (spans[now]) { spans[now].classList.remove("seen"); spans[now].tabIndex = -1; }
    spans[0].tabIndex = -1;
    now = i;
    spans[i].classList.add("seen");
    spans[i].tabIndex = 0;
    tell(found.search ? overall(found) : "", ...explained(found, found.tokens[i]).filter(Boolean), h("p", { class: "hint" }, marks(found)));
  }

  function pin(i) {
    if (found) {
      spans[pinned]?.setAttribute("aria-pressed", "false");
      pinned = pinned === i ? -1 : i;
      spans[pinned]?.setAttribute("aria-pressed", "true");
    }
    ask(i);
  }

  const at = (event) => spans.indexOf(event.target.closest?.(".token"));
  told.addEventListener("pointerover", (event) => {
    const i = at(event);
    if (i < 0 || event.pointerType === "touch" || pinned >= 0) return;
    wanted = i;
    clearTimeout(dwell);
    if (found) show(i); else dwell = setTimeout(() => ask(wanted), DWELL);
  });
  told.addEventListener("pointerleave", () => clearTimeout(dwell));
  told.addEventListener("click", (event) => { if (at(event) >= 0) pin(at(event)); });
  told.addEventListener("focusin", (event) => {
    if (at(event) >= 0 && event.target.matches(":focus-visible") && pinned < 0) ask(at(event));
  });
  told.addEventListener("keydown", (event) => {
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
    box: [told, meta, hint, why], clear, add, end,
    name(of, isFirst) {
      first = isFirst;
      told.setAttribute("aria-label", `answer of ${of}`);
      why.setAttribute("aria-label", `why, ${of}`);
    },
    get text() { return shown; },
    say: (...nodes) => meta.replaceChildren(...nodes),
    fail: (message) => told.append(h("p", { class: "problem" }, message)),
  };
}
