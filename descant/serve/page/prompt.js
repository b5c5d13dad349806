// The prompt: text, or the messages of a chat.
const ROLES = ["system", "user", "assistant"];

export function promptBox(state, changed) {
  const kinds = ["text", "chat"].map((kind) => h("label", null, h("input", { type: "radio", name: "kind", value: kind, onchange: () => { state.kind = kind; if (kind === "chat" && !state.messages.length) state.messages.push({ role: "user", content: state.text }); fill(); changed(); } }), kind));
  const body = h("div");
  const box = [h("div", { class: "prompt-head" }, h("h2", null, "Prompt"), h("span", { class: "kinds", role: "radiogroup", "aria-label": "kind of prompt" }, kinds)), body];

  const growingArea = (attributes, value, take) => {
    const area = h("textarea", { ...attributes, oninput: () => { grow(); take(area.value); changed(); } });
    const mirror = h("div", { class: "behind", "aria-hidden": "true" });
    const grow = () => { mirror.textContent = `${area.value}\u200b`; };
    area.value = value;
    grow();
    return h("div", { class: "editor prose" }, mirror, area);
  };

  function messageRow(message, i) {
    const role = h("select", { "aria-label": `role of message ${i + 1}`, onchange: () => { message.role = role.value; changed(); } }, ROLES.map((name) => h("option", { value: name }, name)));
    role.value = message.role;
    return h("li", null, role, growingArea({ "aria-label": `message ${i + 1}`, rows: "1" }, message.content, (value) => { message.content = value; }),
      h("button", { type: "button", class: "plain", "aria-label": `remove message ${i + 1}`, onclick: () => { state.messages.splice(i, 1); fill(); changed(); } }, "×"));
  }

  function fill() {
    for (const kind of kinds) kind.firstChild.checked = kind.firstChild.value === state.kind;
    if (state.kind === "text") {
      body.replaceChildren(growingArea({ "aria-label": "prompt", rows: "2", placeholder: "How do I boil eggs?" }, state.text, (value) => { state.text = value; }));
      return;
    }
    body.replaceChildren(h("ol", { class: "messages" }, state.messages.map(messageRow)),
      h("button", { type: "button", class: "plain", onclick: () => { const last = state.messages.at(-1); append({ role: last && last.role === "user" ? "assistant" : "user", content: "" }); } }, "Add a message"));
  }
  function append(...more) {
    state.messages.push(...more);
    fill();
    changed();
    body.querySelector("li:last-child textarea")?.focus();
  }
  fill();
  return {
    box, append,
    focus: () => body.querySelector("textarea")?.focus(),
    get empty() { return state.kind === "text" ? !state.text : !state.messages.length; },
    get fields() { return state.kind === "text" ? { prompt: state.text } : { messages: state.messages.map(({ role, content }) => ({ role, content })) }; },
  };
}
