// The report's parts: front, table, prompts, cost. Each is made when the page opens, its lists as they are read.
const AT_ONCE = 4;

function frontPart(report) {
  const chosen = [], read = h("section", { "aria-live": "polite" }), panel = h("div");
  const axes = [...report.scores.map((one) => ({ score: one.name, objective: one.objective, label: one.label })),
    ...report.params.filter((name) => report.points.some((one) => typeof one.params[name] === "number")).map((name) => ({ param: name, label: name }))];
  const figures = [];
  function choose(point, keep = false) {
    const at = chosen.indexOf(point);
    if (at >= 0) { if (!keep) chosen.splice(at, 1); }
    else { if (chosen.length === AT_ONCE) chosen.shift(); chosen.push(point); }
    figures.forEach((slot) => slot.firstChild.mark && slot.firstChild.mark());
    read.replaceChildren(...sideBySide(report, chosen, choose));
  }
  const find = (name) => axes.find((axis) => axis.score === name);
  const goals = report.objectives.map(find).filter(Boolean);
  const shown = axes.filter((axis) => axis.score !== undefined);
  let pairs = goals.length >= 2 ? goals.flatMap((a, i) => goals.slice(i + 1).map((b) => [a, b])) : [];
  if (!pairs.length && shown.length) {
    const by = axes.find((axis) => axis.param !== undefined);
    pairs = [by ? [by, shown[0]] : [shown[0], shown[1] || shown[0]]];
  }
  const single = pairs.length === 1, several = report.formulas.length > 1;
  const legend = several && h("ul", { class: "legend" }, report.formulas.map((one, f) => h("li", null, mark(f), one.name)));
  const note = h("p", { class: "note" }, caption(report, goals));
  const charts = h("div", { class: single ? "charts" : "charts many" });
  for (const [x, y] of pairs) charts.append(oneChart(report, axes, x, y, chosen, choose, figures, single && [legend, note]));
  panel.append(...[
    h("h2", null, goals.length >= 2 ? "The front" : "The points"),
    pairs.length ? charts : h("p", { class: "note" }, "Nothing was scored, so there is no picture; the completions are under Prompts."),
    pairs.length && !single ? [legend, note] : "",
    frontTable(report) || "",
    h("h2", null, "Completions"), h("p", { class: "hint" }, `Choose up to ${AT_ONCE} points in the picture to read them side by side.`), read,
  ].flat().filter(Boolean));
  read.replaceChildren(...sideBySide(report, chosen, choose));
  report.choose = choose;
  return panel;
}

function oneChart(report, axes, x, y, chosen, choose, figures, aside) {
  const slot = h("div"), now = { x, y };
  const draw = () => slot.replaceChildren(chart(report, now.x, now.y, chosen, choose));
  const pick = (key, label) => h("label", null, label, h("select", {
    onchange: (event) => { now[key] = axes[Number(event.target.value)]; draw(); },
  }, axes.map((axis, i) => h("option", { value: i, selected: axis === now[key] }, axis.label))));
  draw();
  NARROW.addEventListener("change", draw);
  figures.push(slot);
  const controls = axes.length > 2 && h("div", { class: "controls" }, pick("x", "across"), pick("y", "up"));
  return h("div", { class: aside ? "beside one" : "beside" }, slot, h("aside", null, aside, controls));
}

const caption = (report, goals) => [
  "Each point is the mean over its completions; lines are 95 % bootstrap intervals.",
  goals.length >= 2 ? `Filled points are on their formula's front${goals.length === 2 ? ", and the line joins them" : ` over all ${goals.length} objectives`}.` : "",
].join(" ");

function frontTable(report) {
  const rows = report.formulas.map((one, f) => ({ ...one, f, ...(report.fronts[one.name] || {}) })).filter((one) => one.hypervolume !== undefined);
  if (!rows.length) return null;
  return sortable([
    { label: "formula", value: (row) => row.name, cell: (row) => [mark(row.f), row.name] },
    { label: "hypervolume", n: true, value: (row) => row.hypervolume },
    { label: "mean inner product", n: true, value: (row) => row.mean_inner_product },
    { label: "points on the front", n: true, value: (row) => row.size, cell: (row) => `${row.size} of ${row.of}` },
  ], rows, `Fronts over ${report.objectives.join(", ")}${rows[0].reference ? `; hypervolume from ${rows[0].reference.map(short).join(", ")}` : ""}`);
}

function sideBySide(report, chosen, choose) {
  if (!chosen.length) return [h("p", { class: "note" }, "No point is chosen.")];
  const chips = chosen.map((point) => h("span", { class: "chip" }, mark(point.f), nameOf(report, point),
    h("button", { type: "button", "aria-label": `remove ${nameOf(report, point)}`, onclick: () => choose(point) }, "×")));
  const draw = (prompt) => h("article", { class: "prompt" },
    h("p", { class: "ask" }, h("span", { class: "id" }, String(prompt.id)), prompt.text),
    h("div", { class: "side", "--columns": chosen.length }, chosen.map((point) => h("div", null,
      (report.cells.get(`${point.index} ${prompt.index}`) || []).map((row) => answer(report, row, nameOf(report, point)))))));
  return [h("div", { class: "chips" }, chips), ...growing(report.prompts, draw)];
}

function answer(report, row, who) {
  return h("div", { class: "answer stack" },
    h("div", { class: "of" }, h("span", { class: "who" }, who), report.scores.filter((one) => one.asked).slice(0, 4).map((one) => typeof row.scores[one.name] === "number" &&
      h("span", null, `${one.name} ${fmt(row.scores[one.name], 2)}`)), h("span", null, ended(row))),
    h("div", { class: "text" }, row.text === null ? "–" : row.text));
}
const ended = (row) => [row.tokens !== null && count(row.tokens, "token"), row.finish].filter(Boolean).join(", ");

function tablePart(report) {
  const of = (name) => (row) => (row.scores[name] ? row.scores[name][0] : null);
  const several = report.formulas.length > 1;
  const column = (one) => ({
    label: one.label, n: true, value: of(one.name), cell: (row) => (row.scores[one.name] ? meanOf(row.scores[one.name]) : "–"),
  });
  return h("div", null, report.tables.map(oneTable), h("h2", null, "Every point"), sortable([
    several && { label: "formula", value: (row) => report.formulas[row.f].name, cell: (row) => [mark(row.f), report.formulas[row.f].name] },
    ...report.params.map((name) => ({ label: name, n: true, value: (row) => row.params[name], cell: (row) => (row.params[name] === undefined ? "–" : short(row.params[name])) })),
    ...report.scores.filter((one) => one.asked).map(column),
    report.objectives.length > 1 && { label: "front", title: "on its formula's front, or on that of all formulas together", value: (row) => (row.best ? 0 : row.front ? 1 : 2), cell: (row) => (row.best && several ? "of all" : row.front ? "yes" : "") },
    { label: "n", n: true, value: (row) => row.n, cell: (row) => short(row.n ?? "–") },
    { label: "tokens/s", title: "of one completion", n: true, value: (row) => row.tokens_per_second, cell: (row) => fmt(row.tokens_per_second, 1) },
    { label: "seconds", title: "of one completion", n: true, value: (row) => row.seconds, cell: (row) => fmt(row.seconds, 2) },
    { label: "", value: (row) => row.index, cell: (row) => h("button", { type: "button", class: "plain", "aria-label": `read the completions of ${nameOf(report, row)}`, onclick: () => { report.choose(row, true); report.go("front"); } }, "read") },
    ...report.scores.filter((one) => !one.asked).map(column),
  ].filter(Boolean), report.points, "Means over completions, with 95 % bootstrap intervals"));
}

// A table of the run file: the labels of a row, and a mean with its interval in each cell.
function oneTable(table) {
  const labels = table.over.map((name, i) => ({ label: name, n: table.rows.some((row) => typeof row.labels[i] === "number"),
    value: (row) => row.labels[i], cell: (row) => (row.labels[i] === null ? "–" : short(row.labels[i])) }));
  const cells = table.heads.map((name, i) => ({ label: name, n: true, value: (row) => row.cells[i] && row.cells[i][0], cell: (row) => row.cells[i] ? meanOf(row.cells[i]) : "–" }));
  return [h("h2", null, table.name), sortable([...labels, ...cells], table.rows, "Means over prompts, with 95 % bootstrap intervals")];
}
const meanOf = ([mean, low, high]) => [fmt(mean), " ", typeof low === "number" && h("span", { class: "low" }, `[${fmt(low)}, ${fmt(high)}]`)];

function promptsPart(report) {
  const page = h("div"), list = h("select", { "aria-label": "prompt", onchange: () => go(Number(list.value)) });
  const find = h("input", { type: "search", placeholder: "find in prompts and completions", "aria-label": "find in prompts and completions", oninput: () => fill() });
  const ranges = Object.fromEntries(report.scores.map((one) => [one.name, range(report.rows.map((row) => row.scores[one.name]))]));
  const found = h("span", { class: "hint", role: "status" });
  let now = 0, kept = report.prompts;
  function matches(prompt, word) {
    if (!word || prompt.text.toLowerCase().includes(word)) return true;
    return report.points.some((point) => (report.cells.get(`${point.index} ${prompt.index}`) || []).some((row) => (row.text || "").toLowerCase().includes(word)));
  }
  function fill() {
    const word = find.value.trim().toLowerCase();
    kept = report.prompts.filter((prompt) => matches(prompt, word));
    list.replaceChildren(...kept.map((prompt) => h("option", { value: prompt.index }, `${prompt.id}  ${prompt.text.replace(/\s+/g, " ").slice(0, 80)}`)));
    found.textContent = word ? count(kept.length, "prompt") : "";
    if (kept.length) show(kept.some((one) => one.index === now) ? now : kept[0].index);
  }
  function step(by) {
    const at = kept.findIndex((one) => one.index === now) + by;
    if (kept[at]) go(kept[at].index);
  }
  const before = h("button", { type: "button", onclick: () => step(-1) }, "previous"), after = h("button", { type: "button", onclick: () => step(1) }, "next");
  function go(index) { show(index); report.note(`prompts/${index}`); }
  function show(index) {
    const prompt = report.prompts[index];
    if (!prompt) return;
    now = index;
    list.value = String(index);
    const at = kept.findIndex((one) => one.index === now);
    before.disabled = at <= 0;
    after.disabled = at < 0 || at >= kept.length - 1;
    page.replaceChildren(h("p", { class: "asked" }, prompt.text), ...report.formulas.map((formula, f) => onePrompt(report, prompt, f, ranges)));
  }
  fill();
  const panel = h("div", null, h("h2", null, "A prompt across the points"), h("div", { class: "controls" }, list, before, after, find, found), page);
  panel.show = (index) => show(Number(index) || 0);
  return panel;
}

function onePrompt(report, prompt, f, ranges) {
  const cells = report.points.filter((one) => one.f === f).flatMap((point) => (report.cells.get(`${point.index} ${prompt.index}`) || []).map((row) => [
    h("div", null, where(point), h("div", { class: "note" }, ended(row))),
    h("div", { class: "text" }, row.text === null ? "–" : row.text),
    h("div", { class: "scorebars" }, report.scores.filter((one) => one.asked && typeof row.scores[one.name] === "number").map((one) => {
      const [low, high] = ranges[one.name], value = row.scores[one.name];
      return [h("b", null, one.name), h("div", null, h("i", { "--share": `${high > low ? (value - low) / (high - low) * 100 : 0}%` })), h("span", null, fmt(value, 2))];
    })),
  ]));
  if (!cells.length) return "";
  return h("section", null, report.formulas.length > 1 && h("h3", null, mark(f), " ", report.formulas[f].name), h("div", { class: "across" }, cells));
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const one of values) if (typeof one === "number") { low = Math.min(low, one); high = Math.max(high, one); }
  return [low, high];
}

function costPart(report) {
  const rows = report.formulas.map((one, f) => ({ ...one, f, ...one.cost }));
  return h("div", null, h("h2", null, "What it cost"), sortable([
    { label: "formula", value: (row) => row.name, cell: (row) => [mark(row.f), row.name] },
    { label: "completions", n: true, value: (row) => row.completions, cell: (row) => row.completions.toLocaleString("en") },
    { label: "tokens", n: true, value: (row) => row.tokens, cell: (row) => row.tokens.toLocaleString("en") },
    { label: "seconds each", n: true, value: (row) => row.seconds, cell: (row) => fmt(row.seconds, 2) },
    { label: "tokens/s each", n: true, value: (row) => row.tokens_per_second, cell: (row) => fmt(row.tokens_per_second, 1) },
  ], rows, "By formula; completions share batches, so that their seconds overlap"), h("dl", { class: "pairs" }, report.meta.map(([key, value]) => [h("dt", null, key), h("dd", null, value)])),
  h("h2", null, "The plan"), report.formulas.map((one) => one.plan && [report.formulas.length > 1 && h("h3", null, one.name), h("pre", { class: "plan", tabindex: "0" }, one.plan)]));
}
