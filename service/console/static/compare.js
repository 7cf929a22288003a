// Lists side by side: which items they share, and where the others have them.

import { nameOf } from "./controls.js";
import { $, h, svg } from "./dom.js";

const HALF_A_LINE = 22;
let isOneList = false;

/** Says of each item where the other columns have it, and of all how many they share. */
export function compare(columns) {
  const there = columns.filter(({ answer }) => answer);
  const orders = there.map(({ answer }) => answer.items.map((item) => item.item_id).join());
  isOneList = there.length > 1 && new Set(orders).size === 1; // saying so of each item is noise
  for (const column of there) {
    const others = isOneList ? [] : there.filter((it) => it !== column);
    for (const row of column.list.querySelectorAll("li.item")) {
      const marks = row.querySelector(".item-marks");
      for (const old of marks.querySelectorAll(".also")) old.remove();
      marks.append(...others.filter((other) => other.ranks.has(row.dataset.id)).map((other) => also(row, other)));
    }
  }
  $("shared").textContent = sharedText(there);
  drawLinks(columns);
}

function sharedText(columns) {
  if (columns.length < 2 || !columns.every(({ answer }) => answer.items.length)) return "";
  if (isOneList) {
    const isPopular = columns.every(({ answer }) => answer.source.includes("popular"));
    return isPopular ? "Both lists are what is popular: nothing is known of this visitor." : "The lists are the same.";
  }
  const [first, ...rest] = columns.map(({ ranks }) => ranks);
  const numShared = [...first.keys()].filter((itemId) => rest.every((ranks) => ranks.has(itemId))).length;
  return `${numShared} of ${first.size} shared`;
}

/** A button that goes to the same item in another column. */
function also(row, other) {
  const rank = other.ranks.get(row.dataset.id);
  const name = nameOf(other.kind);
  const target = () => rowOf(other, row.dataset.id)?.querySelector("button.title");
  return h("button", { class: "also", type: "button", "aria-label": `Number ${rank} in ${name}: go there`, onclick: () => target()?.focus() }, `#${rank} in ${name}`);
}

/** Lines between the two places of each shared item, where two lists stand beside each other. */
function drawLinks(columns) {
  const lists = $("lists");
  lists.querySelector(".links")?.remove();
  const [left, right] = columns.map(({ element }) => element);
  if (columns.length !== 2 || isOneList || left.offsetTop !== right.offsetTop) return;
  // places as they are laid out, whatever is moving at the moment
  const middleOf = (row, column) => column.offsetTop + row.offsetTop + HALF_A_LINE;
  const [start, end] = [left.offsetLeft + left.offsetWidth, right.offsetLeft];
  const bend = (start + end) / 2;
  const lines = [...columns[0].list.querySelectorAll("li.item")].flatMap((row) => {
    const other = rowOf(columns[1], row.dataset.id);
    if (!other) return [];
    const [from, to] = [middleOf(row, left), middleOf(other, right)];
    return [svg("path", { "data-id": row.dataset.id, d: `M${start} ${from}C${bend} ${from} ${bend} ${to} ${end} ${to}` })];
  });
  lists.append(svg("svg", { class: "links", "aria-hidden": "true", focusable: "false" }, lines));
}

const rowOf = (column, itemId) => column.list.querySelector(`li.item[data-id="${CSS.escape(itemId)}"]`);

/** Lights up both places of a shared item while one of them is looked at; draws the lines anew when rows move. */
export function initCompare(app) {
  const lists = $("lists");
  const light = (event) => {
    const itemId = event.target.closest?.("li.item")?.dataset.id;
    const same = itemId === undefined ? [] : [...lists.querySelectorAll(`[data-id="${CSS.escape(itemId)}"]`)];
    const isShared = same.some((it) => it.matches("path"));
    for (const lit of lists.querySelectorAll(".lit")) lit.classList.remove("lit");
    if (isShared) for (const it of same) it.classList.add("lit");
  };
  for (const kind of ["pointerover", "focusin"]) lists.addEventListener(kind, light);
  let drawn = "";
  new ResizeObserver(() => {
    const size = `${lists.clientWidth}x${lists.clientHeight}`;
    if (size === drawn) return;
    drawn = size;
    drawLinks(app.columns);
  }).observe(lists);
}

/** How many rows the columns share, so that the same rank is on the same height in all of them. */
export function alignRows(columns) {
  const numRows = Math.max(1, ...columns.map(({ list }) => list.children.length));
  for (const column of columns) {
    column.list.style.setProperty("--span", numRows);
    column.element.style.setProperty("--span", numRows + column.element.children.length - 1);
  }
}
