// Effect sizes: a table for each score, with a row for each point and its interval as a picture.
function effectsPart(report) {
  const all = report.effects, several = report.formulas.length > 1;
  return h("div", null, h("h2", null, `Against ${all.against}`), h("p", { class: "note" }, all.note), all.scores.map((score) => {
    const rows = all.rows.filter((row) => row.score === score).map((row) => ({ ...row, point: report.points[row.at] }));
    const ends = rows.flatMap((row) => [row.difference_low, row.difference_high]).filter((value) => typeof value === "number");
    const low = Math.min(0, ...ends), high = Math.max(0, ...ends);
    return h("section", null, h("h3", null, report.scores.find((one) => one.name === score)?.label || score), sortable([
      { label: "point", value: (row) => nameOf(report, row.point), cell: (row) => [several && mark(row.point.f), nameOf(report, row.point)] },
      { label: "difference", n: true, value: (row) => row.difference, cell: (row) => meanOf([row.difference, row.difference_low, row.difference_high]) },
      { label: "", value: (row) => row.difference, cell: (row) => forest(row, low, high) },
      { label: "d_z", title: "the mean difference in standard deviations of the differences", n: true, value: (row) => row.d_z, cell: (row) => fmt(row.d_z, 2) },
      { label: "win rate", title: "the share of prompts at which it is larger; equal is half", n: true, value: (row) => row.win_rate, cell: (row) => meanOf([row.win_rate, row.win_rate_low, row.win_rate_high]) },
      { label: "p", n: true, value: (row) => row.p, cell: (row) => pText(row.p) },
      { label: "p (Holm)", title: "corrected over all points", n: true, value: (row) => row.p_holm, cell: (row) => pText(row.p_holm) },
    ], rows, `${score}, over ${count(rows[0].prompts, "prompt")}`));
  }));
}
const pText = (p) => (p < 0.001 ? "<0.001" : fmt(p));

// An interval and its mean; the upright line is no difference.
function forest(row, low, high) {
  const x = (value) => 4 + (high > low ? (value - low) / (high - low) : 0.5) * 152;
  return s("svg", { class: "forest", viewBox: "0 0 160 14", role: "img", "aria-label": `${fmt(row.difference)} [${fmt(row.difference_low)}, ${fmt(row.difference_high)}]` },
    s("line", { class: "axis", x1: x(0), x2: x(0), y1: 0, y2: 14 }),
    s("line", { class: `f${row.point.f % 6}`, x1: x(row.difference_low), x2: x(row.difference_high), y1: 7, y2: 7 }),
    s("circle", { class: `shape${row.p_holm < 0.05 ? " on" : ""} f${row.point.f % 6}`, cx: x(row.difference), cy: 7, r: 3.5 }));
}
