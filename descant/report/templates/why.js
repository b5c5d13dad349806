// Why each token: the text, and for the token that is chosen its candidates and what each part added.
const seen = (text, id) => {
  if (text === null || text === undefined) return `[${id}]`;
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
};
const shownToken = (text, id) => h("code", null, seen(text, id).replace(/ /g, "␣"));
// A token where it stands in the text: ends of lines are shown, and end lines.
function inText(token) {
  const text = token.text === null ? `[${token.id}] ` : token.text;
  return text.includes("\n") ? [h("span", { class: "ctl" }, text.replace(/\n/g, "⏎")), ..."\n".repeat(text.split("\n").length - 1).split("").map(() => h("br"))] : text || h("span", { class: "ctl" }, "∅");
}
const tokenKinds = (token) => [token.changed && "changed", token.by_noise && "noise"].filter(Boolean);
const marks = (found) => [h("span", { class: "key changed" }, "marked"), ` ${found.base} alone would have chosen another; `, h("span", { class: "key noise" }, "underlined"), " drawn though another had a better score."];

function whyPart(found, note) {
  const detail = h("section", { class: "why", "aria-live": "polite" }), told = h("div", { class: "told", role: "group", "aria-label": "the generated tokens" });
  const buttons = found.tokens.map((token, i) => {
    return h("span", {
      role: "button", class: ["token", ...tokenKinds(token)].join(" "), tabindex: i ? "-1" : "0", "aria-pressed": "false",
      title: reason(found, token), onclick: () => go(i), onkeydown: (event) => keyed(event, i),
    }, inText(token));
  });
  let now = 0;
  function keyed(event, i) {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); go(i); return; }
    const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (next === undefined || !buttons[next]) return;
    event.preventDefault();
    go(next);
    buttons[next].focus();
  }
  function go(i) { show(i); note(`why/${i}`); }
  function show(i) {
    if (!buttons[i]) return;
    buttons[now].setAttribute("aria-pressed", "false");
    buttons[now].setAttribute("tabindex", "-1");
    now = i;
    buttons[i].setAttribute("aria-pressed", "true");
    buttons[i].setAttribute("tabindex", "0");
    detail.replaceChildren(...explained(found, found.tokens[i]));
  }
  told.append(...buttons);
  const panel = h("div", null, h("h2", null, "Why each token"), h("p", { class: "asked" }, promptText(found.prompt)), told,
    h("p", { class: "hint" }, marks(found), " Click a token, or use the arrow keys."),
    overall(found), detail);
  show(Math.max(0, found.tokens.findIndex((one) => one.changed)));
  panel.show = (i) => show(Number(i) || 0);
  return panel;
}

const promptText = (prompt) => typeof prompt === "string" ? prompt
  : Array.isArray(prompt) && prompt.every((one) => one && one.role) ? prompt.map((one) => `${one.role}: ${one.content}`).join("\n") : JSON.stringify(prompt);
const brief = (name) => (name.length > 18 && name.includes("(") ? `${name.slice(0, name.indexOf("("))}(…)${name.slice(name.lastIndexOf(")") + 1)}` : name);
const byId = (token, id) => token.candidates.find((one) => one.id === id);

function reason(found, token) {
  const said = [];
  if (token.changed) said.push(`${found.base} alone: ${seen(byId(token, token.base).text, token.base)}`);
  if (token.by_noise) said.push(`best score: ${seen(byId(token, token.best).text, token.best)}`);
  return said.join("; ") || `${found.base} alone would have chosen it too`;
}

// Which part speaks most for the token that was chosen, against another candidate.
function tipping(token, other) {
  const one = byId(token, token.id), two = byId(token, other);
  return one.contributions.map((value, i) => (value === null || two.contributions[i] === null ? null : value - two.contributions[i]));
}

function overall(found) {
  const changed = found.tokens.filter((one) => one.changed);
  const wins = new Map();
  for (const token of changed) {
    const removed = byId(token, token.base).removed_by, by = tipping(token, token.base);
    let best = -1;
    by.forEach((value, i) => { if (value !== null && value > 0 && (best < 0 || value > by[best])) best = i; });
    const name = removed ? `removed by ${brief(removed)}` : best >= 0 ? found.parts[best].name : "the noise";
    wins.set(name, (wins.get(name) || 0) + 1);
  }
  const most = [...wins].sort((a, b) => b[1] - a[1]).map(([name, many]) => `${brief(name)} ${many}`).join(", ");
  return h("div", null,
    h("p", { class: "note" }, `${count(found.tokens.length, "token")}; ${changed.length} that ${found.base} alone would not have chosen`,
      most && ` (what decided: ${most})`, `; ${found.tokens.filter((one) => one.by_noise).length} drawn though another had a better score.`,
      ` Temperature ${short(found.temperature)}. Ended by ${found.finish_reason}.`),
    found.search && h("p", { class: "note" }, `${found.search} chose this text among others`, found.search_score !== null && `, and judged it ${fmt(found.search_score)} (${Object.entries(found.search_terms).map(([name, said]) => `${name} ${fmt(said)}`).join(", ")})`,
      ". The tokens are explained by the formula that drew them; the noise that drew each is not kept."));
}

function explained(found, token) {
  const other = token.changed ? token.base : (token.candidates.find((one) => one.id !== token.id) || { id: token.id }).id;
  const chosen = byId(token, token.id), against = byId(token, other);
  return [
    h("h3", null, `Token ${token.step + 1}: `, shownToken(token.text, token.id)),
    h("p", null, token.changed ? [`${found.base} alone would have chosen `, shownToken(byId(token, token.base).text, token.base), ". "] : `${found.base} alone would have chosen it too. `,
      token.by_noise ? ["The best score had ", shownToken(byId(token, token.best).text, token.best), "; the noise of drawing decided. "] : "",
      token.conditions.map((condition) => `${condition.condition}: ${condition.holds ? "yes" : "no"} (${Object.entries(condition.states).map(([name, value]) => `${name} = ${short(value)}`).join(", ")}). `),
      token.search_score !== null && token.search_score !== undefined && `The search's judge added ${fmt(token.search_score)}. `),
    other !== token.id && tippedBars(found, token, chosen, against, other),
    candidatesTable(found, token),
  ];
}

function tippedBars(found, token, chosen, against, other) {
  const by = tipping(token, other);
  const noise = chosen.noise !== null && against.noise !== null ? (chosen.noise - against.noise) * (found.temperature || 1) : null;
  const rows = [...found.parts.map((part, i) => [part.name, by[i]]), ...(noise === null ? [] : [["noise", noise]])].filter(([, value]) => value);
  const most = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-9);
  if (!rows.length && !against.removed_by) return null;
  return h("div", null, h("p", { class: "note" }, "What spoke for it, against ", shownToken(against.text, other), against.removed_by ? `, which ${against.removed_by} removed` : "", ":"),
    h("div", { class: "tipped" }, rows.map(([name, value]) => [h("code", null, name),
      h("div", { class: "track" }, h("i", { class: value < 0 ? "down" : null, "--from": `${value < 0 ? 50 + value / most * 50 : 50}%`, "--size": `${Math.abs(value) / most * 50}%` })),
      h("span", null, (value > 0 ? "+" : "") + fmt(value))])));
}

function statesOf(token, i) {
  const values = Object.entries((token.numbers || [])[i] || {});
  return values.length ? ` (${values.map(([name, value]) => `${brief(name)} = ${short(value)}`).join(", ")})` : "";
}

function candidatesTable(found, token) {
  const ends = found.parts.map((_, i) => token.candidates.reduce(([low, high], one) =>
    [Math.min(low, one.contributions[i] || 0), Math.max(high, one.contributions[i] || 0)], [0, 0]));
  const bar = (value, i) => {
    const [low, high] = ends[i], span = high - low || 1;
    return h("td", { class: "bar" }, fmt(value), value !== null && value !== 0 && h("b", null, h("i", {
      class: value < 0 ? "down" : null, "--from": `${(Math.min(value, 0) - low) / span * 100}%`, "--size": `${Math.abs(value) / span * 100}%` })));
  };
  const inner = found.terms.map((name, i) => ({ name, i })).filter((one) => found.parts.some((part) => part.terms.includes(one.name)));
  const noisy = token.candidates.some((one) => one.noise !== null);
  const head = (label, n, title) => h("th", { scope: "col", class: n ? "n" : null, title }, label);
  const rows = token.candidates.map((one) => h("tr", { class: [one.id === token.id && "drawn", one.score === null && "removed"].filter(Boolean).join(" ") || null },
    h("td", { class: "n" }, one.rank === null ? "–" : one.rank),
    h("td", null, shownToken(one.text, one.id), one.id === token.id && h("span", { class: "tag" }, "chosen"), one.id === token.base && h("span", { class: "tag" }, `${found.base} alone`),
      one.removed_by && h("span", { class: "tag by", title: one.removed_by }, `removed by ${one.removed_by}`)),
    h("td", { class: "n" }, one.score === null ? "–" : fmt(one.probability)), one.contributions.map(bar), h("td", { class: "n" }, fmt(one.score)),
    noisy && h("td", { class: "n" }, fmt(one.noise, 2)), found.rewards.map((_, i) => h("td", { class: "n" }, fmt(one.rewards[i]))),
    inner.map(({ i }) => h("td", { class: "n" }, fmt(one.logprobs[i])))));
  return h("div", null, h("p", { class: "note" }, "What each part added to the score of each candidate: its coefficient times its log-probability, or what a stage changed."),
    h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "candidates" }, h("table", { class: "candidates" },
    h("thead", null, h("tr", null, head("#", true, "its rank by score"), head("candidate"), head("probability", true),
      found.parts.map((part, i) => head((part.coefficient === null || part.coefficient === 1 || part.kind === "number" ? brief(part.name) : `${short(part.coefficient)} × ${brief(part.name)}`) + statesOf(token, i), true, part.name)),
      head("score", true), noisy && head("noise", true, "added to score / temperature in drawing"), found.rewards.map((one) => head(`says ${one.name}`, true, one.stage)),
      inner.map(({ name }) => head(`log p, ${name}`, true)))), h("tbody", null, rows))));
}
