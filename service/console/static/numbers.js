// What visitors do, for those who run the shop: events, clicks per 100 lists, the items and visitors of the moment.

import { addressOf } from "./address.js";
import { ask } from "./api.js";
import { sparkline } from "./charts.js";
import { nameOf } from "./controls.js";
import { $, clear, h } from "./dom.js";
import { ago, count, number, percent, plural, rate } from "./format.js";
import { learnTitles, titleOf } from "./titles.js";

const RANGES = [[15, "15 minutes"], [60, "hour"], [1_440, "day"], [10_080, "week"]];
const EVERY_MS = 15_000;
const ACTS = [["click", "clicks"], ["purchase", "purchases"]];

let minutes = 60;
let lastAt = -Infinity;
let app = null;

/** The board, empty. */
export function makeNumbers(theApp) {
  app = theApp;
  const choose = (event) => {
    minutes = Number(event.target.value);
    readNumbers({ isForced: true });
  };
  const options = RANGES.map(([value, text]) => h("option", { value, selected: value === minutes }, `the last ${text}`));
  return h(
    "section",
    { class: "card numbers", "aria-labelledby": "numbers-title" },
    h("header", { class: "card-head" }, h("h2", { id: "numbers-title" }, "Visitors"), h("label", { class: "range-label" }, h("span", { class: "visually-hidden" }, "Time"), h("select", { id: "range", onchange: choose }, options))),
    h("div", { id: "numbers", class: "numbers-body" }),
  );
}

/** Reads the log's numbers, every now and then. */
export async function readNumbers({ isForced = false } = {}) {
  if (!isForced && performance.now() - lastAt < EVERY_MS) return;
  lastAt = performance.now();
  const asked = minutes;
  try {
    const log = await ask("GET", `console/activity?minutes=${asked}`, { quietly: true });
    await learnTitles(log.top_items.map(({ item_id }) => item_id));
    if (asked !== minutes) return;
    clear($("numbers"), drawn(log));
    showOutcomes(log.outcomes);
  } catch (error) {
    for (const id of ["numbers", "outcomes"]) clear($(id), h("p", { class: "note" }, error.message));
  }
}

function drawn(log) {
  const seconds = Math.max(log.until - log.since, 1);
  const types = Object.entries(log.by_type).map(([type, amount]) => `${type.replaceAll("_", " ")} ${count(amount)}`);
  const origins = Object.entries(log.by_origin).filter(([origin]) => origin !== "shop");
  const notes = [
    log.is_cut ? `The newest ${count(log.events)} events: since ${ago(log.since)}.` : "Events that were exported and trimmed are not counted.",
    log.console ? `${plural(log.console, "event")} of the console left out.` : null,
    ...origins.map(([origin, amount]) => `${count(amount)} by ${origin}.`),
  ];
  return [
    h(
      "div",
      { class: "figures" },
      figure("Events", count(log.events), types.join(" · ") || "none"),
      figure("Per second", rate(log.events / seconds), "events, on average"),
      figure("Visitors", count(log.visitors), log.sessions ? `${count(log.sessions)} of them sessions` : "who did something"),
    ),
    h("div", { class: "tile-chart" }, sparkline(log.bins, log.bins.length)),
    h("p", { class: "note" }, notes.filter(Boolean).join(" ")),
    h("div", { class: "tops" }, topItems(log.top_items), topUsers(log.top_users)),
  ];
}

const figure = (title, text, note) => h("div", { class: "figure" }, h("h3", {}, title), h("p", { class: "tile-value" }, text), h("p", { class: "meta" }, note));

function topItems(items) {
  const row = ({ item_id, events, purchases }) =>
    h("tr", {}, h("th", { scope: "row" }, h("button", { class: "title", type: "button", onclick: () => app.openItem(item_id) }, titleOf(item_id))), h("td", {}, count(events)), h("td", {}, count(purchases)));
  return table("Top items", ["item", "events", "bought"], items.map(row));
}

function topUsers(users) {
  const row = ({ user_id, events }) => h("tr", {}, h("th", { scope: "row" }, h("a", { href: addressOf({ user: user_id }) }, user_id)), h("td", {}, count(events)));
  return table("Top visitors", ["user", "events"], users.map(row));
}

/** A table under its name, or a line that says that there is nothing. */
export function table(name, heads, rows) {
  const head = h("tr", {}, heads.map((it) => h("th", { scope: "col" }, it)));
  return h(
    "div",
    { class: "top" },
    h("h3", {}, name),
    rows.length ? h("table", { class: "plain", "aria-label": name }, h("thead", {}, head), h("tbody", {}, rows)) : h("p", { class: "note" }, "Nothing in this time."),
  );
}

/** Clicks and purchases per 100 lists of a time, by model and arm, as far as decision records have them. */
function showOutcomes(outcomes) {
  if (!outcomes) return clear($("outcomes"), h("p", { class: "note" }, "The service keeps no decision records (HATSTAND_DECISION_MAX_MB=0), so it cannot tell."));
  const row = ({ kind, arm, lists, by_model, events }) => {
    const cells = ACTS.map(([type]) => number(((events[type] ?? 0) / lists) * 100));
    return h("tr", {}, h("th", { scope: "row" }, `${nameOf(kind)}${arm === "none" ? "" : `, arm ${arm}`}`), h("td", {}, count(lists)), h("td", {}, percent(by_model / lists)), cells.map((it) => h("td", {}, it)));
  };
  const numLists = outcomes.rows.reduce((sum, { lists }) => sum + lists, 0);
  const time = outcomes.is_cut ? `A sample of the newest lists: ${count(numLists)}.` : "All lists of this time, of all replicas.";
  clear(
    $("outcomes"),
    table("Per 100 lists", ["model", "lists", "by the model", ...ACTS.map(([, word]) => word)], outcomes.rows.map(row)),
    h("p", { class: "note" }, `${time} An event counts if it names the list that led to it.`),
  );
}
