"use strict";
// Elements, numbers and tables. Text becomes text nodes and nothing else: no markup is ever parsed.
const SVG = "http://www.w3.org/2000/svg";

function made(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
  return element;
}

const h = (tag, attributes, ...children) => made(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => made(document.createElementNS(SVG, tag), attributes, children);

function fmt(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  const text = size >= 1e6 || (size > 0 && size < 1e-3) ? value.toExponential(2)
    : value.toFixed(size >= 1000 ? 0 : size >= 100 ? Math.min(1, digits) : digits);
  return text.replaceAll("-", "−");
}
const short = (value) => (typeof value === "number" ? String(+value.toPrecision(4)).replace("-", "−") : String(value));
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const mark = (formula) => h("span", { class: `mark m${formula % 6}`, "aria-hidden": "true" });

// A table that sorts by a click on its head. Columns: label, value(row), cell(row), n for numbers.
function sortable(columns, rows, caption) {
  const body = h("tbody");
  const order = { column: null, down: false };
  const heads = columns.map((column, i) => h("th", { scope: "col", class: column.n ? "n" : null },
    h("button", { type: "button", title: column.title, onclick: () => sort(i) }, column.label)));
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    const sign = order.down ? -1 : 1;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  function fill(list) {
    body.replaceChildren(...list.map((row) => h("tr", null, columns.map((column) =>
      h("td", { class: column.n ? "n" : null }, column.cell ? column.cell(row) : column.n ? fmt(column.value(row)) : column.value(row))))));
  }
  function sort(i) {
    order.down = order.column === i ? !order.down : Boolean(columns[i].n);
    order.column = i;
    heads.forEach((head, at) => at === i
      ? head.setAttribute("aria-sort", order.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    fill([...rows].sort((a, b) => compare(columns[i].value(a), columns[i].value(b))));
  }
  fill(rows);
  return h("div", null, h("p", { class: "note" }, caption), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null, h("thead", null, h("tr", null, heads)), body)));
}

// A list that makes its next items when its end comes into view, so that thousands cost nothing.
function growing(items, draw, step = 12) {
  const list = h("div"), end = h("p", { class: "hint" });
  let done = 0;
  const more = () => {
    for (const item of items.slice(done, done + step)) list.append(draw(item));
    done = Math.min(items.length, done + step);
    end.replaceChildren(done < items.length
      ? h("button", { type: "button", class: "plain", onclick: more }, `${done} of ${items.length}: show more`) : "");
    if (done >= items.length) watch.disconnect();
  };
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    more();
    watch.unobserve(end);
    if (done < items.length) watch.observe(end); // it may be in view still
  }, { rootMargin: "600px" });
  more();
  watch.observe(end);
  return [list, end];
}
