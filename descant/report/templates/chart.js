// The front: points with their intervals. A point is told by hover or focus, and chosen by a click.
const NARROW = window.matchMedia("(max-width: 44rem)"), NEAR = 22;
const EDGE = { left: 66, right: 24, top: 14, bottom: 56 };
const extent = (several) => (NARROW.matches ? [440, 400] : several ? [540, 420] : [720, 450]);
const SHAPES = [
  (r) => s("circle", { r }), (r) => s("rect", { x: -r * .9, y: -r * .9, width: r * 1.8, height: r * 1.8 }),
  (r) => s("path", { d: `M0 ${-r * 1.25}L${r * 1.25} 0L0 ${r * 1.25}L${-r * 1.25} 0Z` }),
  (r) => s("path", { d: `M0 ${-r * 1.15}L${r * 1.15} ${r * .9}L${-r * 1.15} ${r * .9}Z` }),
  (r) => s("path", { d: `M0 ${r * 1.15}L${r * 1.15} ${-r * .9}L${-r * 1.15} ${-r * .9}Z` }), (r) => s("circle", { r: r * .8 }),
];

function ticks(low, high, about = 6) {
  const span = high - low || 1, power = 10 ** Math.floor(Math.log10(span / about));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => span / one <= about) || power;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
  return found;
}

// An axis is a score, with its interval, or a parameter.
const reading = (point, axis) => axis.param !== undefined
  ? [point.params[axis.param], null, null] : point.scores[axis.score] || [null, null, null];

function scale(points, axis, from, to) {
  const values = points.flatMap((point) => reading(point, axis)).filter((one) => typeof one === "number");
  let low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * .06;
  low -= pad; high += pad;
  const place = (value) => from + (value - low) / (high - low) * (to - from);
  return { place, ticks: ticks(low, high, Math.abs(to - from) < 420 ? 5 : 7) };
}

function chart(report, x, y, chosen, choose) {
  const points = report.points.filter((one) => typeof reading(one, x)[0] === "number" && typeof reading(one, y)[0] === "number");
  if (!points.length) return h("p", { class: "note" }, "No point has both values.");
  const size = extent(report.objectives.length > 2), [WIDTH, HEIGHT] = size;
  const across = scale(points, x, EDGE.left, WIDTH - EDGE.right), up = scale(points, y, HEIGHT - EDGE.bottom, EDGE.top);
  const tip = h("div", { class: "tip", role: "status", hidden: true });
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${y.label} against ${x.label}` });
  axes(svg, size, across, up, x, y);
  report.formulas.forEach((_, f) => {
    const front = points.filter((one) => one.f === f && one.front).sort((a, b) => reading(a, x)[0] - reading(b, x)[0]);
    if (front.length > 1 && x.objective && y.objective && report.objectives.length === 2) {
      const path = front.map((one) => `${across.place(reading(one, x)[0])},${up.place(reading(one, y)[0])}`).join("L");
      svg.append(s("path", { class: `front f${f % 6}`, d: `M${path}` }));
    }
  });
  for (const point of points) svg.append(whiskers(point, x, y, across, up));
  const named = report.params.length === 1 && report.objectives.length < 3 && points.length <= 60 && x.param === undefined;
  const taken = points.map((one) => [across.place(reading(one, x)[0]) - 6, up.place(reading(one, y)[0]) - 6, 12, 12]);
  const groups = points.map((point, i) => {
    const shape = SHAPES[point.f % 6](5);
    shape.setAttribute("class", `shape f${point.f % 6}${point.front || report.objectives.length < 2 ? " on" : ""}`);
    const [px, py] = [across.place(reading(point, x)[0]), up.place(reading(point, y)[0])];
    const group = s("g", {
      class: "point", transform: `translate(${px} ${py})`, tabindex: i ? "-1" : "0", role: "button",
      "aria-label": spoken(report, point), "aria-pressed": "false", "data-point": point.index,
      onkeydown: (event) => keyed(event, i), onfocus: () => show(i), onblur: () => show(-1),
    }, s("circle", { class: "ring", r: 10 }), shape,
    named && point.front && labelled(labelOf(report, point), px, py, taken));
    svg.append(group);
    return Object.assign(group, { px, py });
  });
  // The pointer means the point that it is nearest to, however close together they lie.
  function nearest(event) {
    const box = svg.getBoundingClientRect(), ratio = WIDTH / box.width;
    const far = groups.map((one) => Math.hypot((event.clientX - box.left) * ratio - one.px, (event.clientY - box.top) * ratio - one.py));
    const best = far.indexOf(Math.min(...far));
    return far[best] < Math.max(NEAR, NEAR * ratio) ? best : -1;
  }
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("click", (event) => {
    const at = nearest(event);
    if (at >= 0) choose(points[at]);
  });
  function keyed(event, i) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(points[i]); }
    else if (event.key === "Escape") show(-1);
    else if (step) {
      event.preventDefault();
      const next = (i + step + groups.length) % groups.length;
      groups[i].setAttribute("tabindex", "-1");
      groups[next].setAttribute("tabindex", "0");
      groups[next].focus();
    }
  }
  function show(i) {
    groups.forEach((group, at) => group.classList.toggle("near", at === i));
    tip.hidden = i < 0;
    if (i < 0) return;
    const { px, py } = groups[i];
    tip.replaceChildren(told(report, points[i]));
    const box = svg.getBoundingClientRect(), ratio = box.width / WIDTH;
    const left = Math.max(0, Math.min(px * ratio + 14, box.width - tip.offsetWidth));
    const above = py * ratio - tip.offsetHeight - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 0 ? above : py * ratio + 16}px`;
  }
  const figure = h("figure", null, svg, tip);
  figure.mark = () => groups.forEach((group, i) => {
    const is = chosen.includes(points[i]);
    group.classList.toggle("chosen", is);
    group.setAttribute("aria-pressed", String(is));
  });
  figure.mark();
  return figure;
}

// A label beside its point, where it hides neither a point nor another label; else none.
function labelled(text, px, py, taken) {
  const wide = 8 * text.length, high = 12;
  for (const [x, y] of [[9, -8], [9, 17], [-9 - wide, -8], [-9 - wide, 17], [-wide / 2, -12], [-wide / 2, 22]]) {
    const box = [px + x, py + y - high, wide, high];
    if (taken.some((one) => box[0] < one[0] + one[2] && one[0] < box[0] + box[2] && box[1] < one[1] + one[3] && one[1] < box[1] + box[3])) continue;
    taken.push(box);
    return s("text", { class: "value", x, y }, text);
  }
  return null;
}

function axes(svg, [WIDTH, HEIGHT], across, up, x, y) {
  const bottom = HEIGHT - EDGE.bottom, right = WIDTH - EDGE.right;
  for (const at of across.ticks) {
    const px = across.place(at);
    svg.append(s("line", { class: "grid", x1: px, x2: px, y1: EDGE.top, y2: bottom }),
      s("text", { x: px, y: bottom + 20, "text-anchor": "middle" }, short(at)));
  }
  for (const at of up.ticks) {
    const py = up.place(at);
    svg.append(s("line", { class: "grid", x1: EDGE.left, x2: right, y1: py, y2: py }),
      s("text", { x: EDGE.left - 9, y: py + 4, "text-anchor": "end" }, short(at)));
  }
  svg.append(s("path", { class: "axis", d: `M${EDGE.left} ${EDGE.top}V${bottom}H${right}` }),
    s("text", { class: "title", x: (EDGE.left + right) / 2, y: HEIGHT - 12, "text-anchor": "middle" }, x.label),
    s("text", { class: "title", transform: `translate(17 ${(EDGE.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label));
}

function whiskers(point, x, y, across, up) {
  const [mx, lx, hx] = reading(point, x), [my, ly, hy] = reading(point, y), lines = [];
  const add = (x1, y1, x2, y2) => lines.push(s("line", { class: `whisker f${point.f % 6}`, x1, y1, x2, y2 }));
  if (typeof lx === "number" && typeof hx === "number") add(across.place(lx), up.place(my), across.place(hx), up.place(my));
  if (typeof ly === "number" && typeof hy === "number") add(across.place(mx), up.place(ly), across.place(mx), up.place(hy));
  return s("g", null, lines);
}

const labelOf = (report, point) => Object.values(point.params).map(short)[0] ?? report.formulas[point.f].name;
const where = (point) => Object.entries(point.params).map(([name, value]) => `${name} = ${short(value)}`).join(", ") || "as written";
const nameOf = (report, point) => `${report.formulas.length > 1 ? `${report.formulas[point.f].name}, ` : ""}${where(point)}`;
const interval = (value) => `${fmt(value[0])}${typeof value[1] === "number" ? ` [${fmt(value[1])}, ${fmt(value[2])}]` : ""}`;
const spoken = (report, point) => [nameOf(report, point), ...report.scores.map((one) => `${one.name} ${interval(point.scores[one.name] || [null])}`)].join("; ");
const told = (report, point) => h("div", null, h("strong", null, nameOf(report, point)), h("dl", null,
  report.scores.filter((one) => one.asked && point.scores[one.name]).map((one) => [h("dt", null, one.name), h("dd", null, interval(point.scores[one.name]))]),
  point.n && [h("dt", null, "completions"), h("dd", null, short(point.n))],
  point.tokens_per_second && [h("dt", null, "tokens/s each"), h("dd", null, fmt(point.tokens_per_second, 1))]));
