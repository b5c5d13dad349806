// The page: reads its data, makes its parts and its tabs, and goes where the address says.
(function open() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main"), tabs = document.getElementById("tabs");
  const quiet = { on: true };
  const note = (place) => { if (!quiet.on) history.replaceState(null, "", `#${place}`); };
  const parts = [];
  const add = (key, label, panel, printed) => parts.push({ key, label, panel, printed });
  if (data.report) {
    const report = prepared(data.report);
    Object.assign(report, { note, go });
    add("front", report.objectives.length > 1 ? "Front" : "Points", frontPart(report), true);
    add("table", "Table", tablePart(report), true);
    if (report.effects.rows.length) add("effects", "Effects", effectsPart(report), true);
    add("prompts", "Prompts", promptsPart(report), false);
    add("cost", "Cost", costPart(report), true);
  }
  if (data.inspection) add("why", "Why", whyPart(data.inspection, note), !data.report);
  for (const part of parts) {
    part.box = h("section", { class: `panel${part.printed ? "" : " chosen"}`, id: `panel-${part.key}`, role: parts.length > 1 ? "tabpanel" : null, "aria-labelledby": parts.length > 1 ? `tab-${part.key}` : null }, part.panel);
    part.tab = h("button", { type: "button", id: `tab-${part.key}`, role: "tab", "aria-controls": `panel-${part.key}`, onclick: () => { go(part.key); note(part.key); }, onkeydown: keyed }, part.label);
  }
  main.replaceChildren(...parts.map((part) => part.box));
  if (parts.length > 1) { tabs.setAttribute("role", "tablist"); tabs.replaceChildren(...parts.map((part) => part.tab)); }
  function go(key, inside) {
    const part = parts.find((one) => one.key === key) || parts[0];
    for (const one of parts) {
      one.box.classList.toggle("active", one === part);
      one.tab.setAttribute("aria-selected", String(one === part));
      one.tab.setAttribute("tabindex", one === part ? "0" : "-1");
    }
    if (inside !== undefined && part.panel.show) part.panel.show(inside);
  }
  function keyed(event) {
    const at = parts.findIndex((part) => part.tab === event.target);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: parts.length - 1 }[event.key];
    const part = next === undefined ? null : parts[(next + parts.length) % parts.length];
    if (part) { event.preventDefault(); go(part.key); note(part.key); part.tab.focus(); }
  }
  function follow() { const [key, inside] = location.hash.slice(1).split("/"); go(key, inside); }
  window.addEventListener("hashchange", follow);
  follow();
  quiet.on = false;
})();

// Points get their places, and completions are found by point and prompt.
function prepared(report) {
  report.points.forEach((point, index) => { point.index = index; });
  report.prompts.forEach((prompt, index) => { prompt.index = index; });
  report.cells = new Map();
  const names = report.completions.scores;
  report.rows = report.completions.rows.map(([point, prompt, sample, text, tokens, finish, ...scores]) => {
    const row = { text, tokens, finish, sample, scores: Object.fromEntries(names.map((name, i) => [name, scores[i]])) };
    const key = `${point} ${prompt}`;
    if (!report.cells.has(key)) report.cells.set(key, []);
    report.cells.get(key).push(row);
    return row;
  });
  return report;
}
