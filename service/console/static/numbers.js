// What visitors do, for those who run the shop: events, clicks per 100 lists, the items and visitors of the moment.

import { addressOf } from "./address.js";
import { ask } from "./api.js";
import { sparkline } from "./charts.js";
import { nameOf } from "./controls.js";
import { $, clear, h } from "./dom.js";
import { ago, count, number, percent, plural, rate } from "./format.js";
import { total, valuesOf } from "./metrics.js";
import { learnTitles, titleOf } from "./titles.js";

const RANGES = [[15, "15 minutes"], [60, "hour"], [1_440, "day"], [10_080, "week"]];
const EVERY_MS = 15_000;
const ATTRIBUTED = "hatstand_attributed_events_total";
const LISTS = "hatstand_recommendations_total";
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
    if (asked === minutes) clear($("numbers"), drawn(log));
  } catch (error) {
    clear($("numbers"), h("p", { class: "note" }, error.message));
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

/** Clicks and purchases per 100 lists, by model and arm, since the service started. */
export function showClicks(samples) {
  const rows = valuesOf(samples, LISTS, "kind").flatMap((kind) =>
    valuesOf(samples, LISTS, "arm").flatMap((arm) => {
      const lists = total(samples, LISTS, { kind, arm });
      if (!lists) return [];
      const cells = ACTS.map(([type]) => number(((total(samples, ATTRIBUTED, { kind, arm, type }) ?? 0) / lists) * 100));
      const byModel = (total(samples, LISTS, { kind, arm, source: "model" }) ?? 0) / lists;
      return [h("tr", {}, h("th", { scope: "row" }, `${nameOf(kind)}${arm === "none" ? "" : `, arm ${arm}`}`), h("td", {}, count(lists)), h("td", {}, percent(byModel)), cells.map((it) => h("td", {}, it)))];
    }),
  );
  clear(
    $("clicks"),
    table("Per 100 lists", ["model", "lists", "by the model", ...ACTS.map(([, word]) => word)], rows),
    h("p", { class: "note" }, "Since the service started, of this replica. An event counts if it names the list that led to it."),
  );
}
