// Heat maps of the reasons. Where they differ between items: history by recommended item. Where they are about the
// visitor (a HatLLM's attention): history by time, how the model's look at it moved with every event.

import { ask } from "./api.js";
import { nameOf } from "./controls.js";
import { $, clear, h } from "./dom.js";
import { percent, plural } from "./format.js";
import { sameReasons } from "./lists.js";
import { learnTitles, titleOf } from "./titles.js";
import { history } from "./visitor.js";

const MAX_ROWS = 14;
const MAX_STEPS = 8;
const MAX_KEPT = 200;
const TICKS = [0, 10, 40, 100];
const kept = new Map();
let turn = 0;

/** Draws a map for every column that has reasons. */
export async function showWhy(columns) {
  const mine = ++turn;
  const explained = columns.filter((column) => column.answer?.items[0]?.reasons.length);
  await learnTitles(explained.flatMap((column) => column.answer.items[0].reasons.slice(0, MAX_ROWS).map((it) => it.item_id)));
  if (mine !== turn) return;
  clear($("why-maps"), explained.map((column) => draw(column)));
  for (const column of explained) {
    if (!isAboutVisitor(column)) continue;
    const steps = await replay(column, () => mine !== turn);
    if (mine !== turn) return;
    $("why-maps").querySelector(`[data-map="${CSS.escape(column.kind)}"]`)?.replaceWith(draw(column, steps));
  }
}

const isAboutVisitor = ({ kind, answer }) => sameReasons(kind, answer.items) !== null;

function draw(column, steps = []) {
  const { kind, answer } = column;
  const rows = rowsOf(answer.items[0].reasons);
  const isVisitors = isAboutVisitor(column);
  const columns = isVisitors
    ? [...steps, { name: "now", weights: weightsOf(answer.items[0]) }]
    : answer.items.map((item) => ({ name: `#${item.rank}`, title: item.fields.title ?? item.item_id, weights: weightsOf(item) }));
  const text = isVisitors
    ? `How much ${nameOf(kind)} looked at each item of the history, after each of the latest events, in percent: a column adds up to 100. The same for every recommended item.`
    : "How like each item of the history is to each recommended one, in percent: a column adds up to 100.";
  const numMore = answer.items[0].reasons.length - rows.length;
  return h(
    "figure",
    { class: `map card kind-${kind}`, "data-map": kind, "data-answer": answer.recommendation_id },
    h("figcaption", {}, h("h3", {}, h("span", { class: "swatch", "aria-hidden": "true" }), `${nameOf(kind)}: ${isVisitors ? "attention" : "likeness"}`), h("p", { class: "meta" }, text), legend(isVisitors)),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${nameOf(kind)}, table of weights` }, table(rows, columns, isVisitors)),
    numMore > 0 ? h("p", { class: "note" }, `${plural(numMore, "item")} of less weight not shown.`) : null,
  );
}

/** The heaviest items of a history, in the order in which they were last met, the latest on top. */
function rowsOf(reasons) {
  const latest = new Map(history.map((event, at) => [event.item_id, at]));
  return reasons
    .slice(0, MAX_ROWS)
    .map(({ item_id }) => item_id)
    .sort((a, b) => (latest.get(b) ?? -1) - (latest.get(a) ?? -1));
}

const weightsOf = (item) => new Map(item.reasons.map(({ item_id, weight }) => [item_id, weight]));

function table(rows, columns, isVisitors) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col", class: "corner" }, isVisitors ? "History" : "History / recommended"),
    columns.map(({ name, title }) => h("th", { scope: "col", title: title ?? null }, name)),
  );
  const body = rows.map((itemId) =>
    h("tr", {}, h("th", { scope: "row" }, titleOf(itemId)), columns.map(({ weights }) => cell(weights.get(itemId)))),
  );
  return h("table", { class: "heat" }, h("thead", {}, head), h("tbody", {}, body));
}

/** What the colours mean; a colour's place is the root of the percentage, as in the cells. */
const legend = (isVisitors) =>
  h(
    "div",
    { class: "legend" },
    h("div", { class: "ramp-box" }, h("div", { class: "ramp", "aria-hidden": "true" }), h("p", { class: "ticks" }, TICKS.map((it) => h("span", { style: { "--at": Math.sqrt(it / 100) } }, `${it} %`)))),
    isVisitors ? h("p", {}, "hatched: not in the history yet") : null,
  );

function cell(weight) {
  if (weight === undefined) return h("td", { class: "none" }, h("span", { class: "visually-hidden" }, "not there"));
  const strength = Math.sqrt(weight); // small differences among small weights are what one looks for
  return h("td", { style: { "--weight": strength } }, percent(weight).replace(" %", ""));
}

/** The reasons as they were before the latest events, by sending the beginnings of the history. */
async function replay(column, isOld) {
  const numEvents = history.length;
  const first = Math.max(1, numEvents - MAX_STEPS + 1);
  const steps = [];
  for (let length = first; length < numEvents; length++) {
    const beginning = history.slice(0, length).map(({ item_id, timestamp }) => ({ item_id, timestamp }));
    const key = JSON.stringify([column.answer.bundle, beginning]);
    if (!kept.has(key)) {
      try {
        const modes = column.app.models[column.kind].modes;
        const body = { history: beginning, k: 1, explain: true, model: column.kind, ...(modes.length > 1 ? { mode: "retrieve" } : {}) };
        const answer = await ask("POST", "recommend", { body, quietly: true });
        kept.set(key, answer.items.length ? weightsOf(answer.items[0]) : new Map());
        if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value);
      } catch {
        return steps; // the map shows what there is
      }
    }
    if (isOld()) return steps;
    steps.push({ name: `−${numEvents - length}`, title: `${plural(numEvents - length, "event")} ago`, weights: kept.get(key) });
  }
  return steps;
}
