// What the metrics say of the traffic: numbers of the last minute, from the differences between two readings.

import { sparkline } from "./charts.js";
import { nameOf } from "./controls.js";
import { $, clear, h } from "./dom.js";
import { count, number, percent, seconds } from "./format.js";
import { ORDINARY_REASON } from "./sources.js";
import { growth, observed, parse, quantile, total, valuesOf } from "./metrics.js";

export const EVERY_MS = 3_000;
const WINDOW = 20; // readings: a minute
const MAX_ROUTES = 12;
const HTTP = "hatstand_http_request_duration_seconds";
const STAGE = "hatstand_stage_duration_seconds";
const RECOMMEND = { route: "/recommend", method: "POST" };
const STAGES = ["history", "queue", "encode", "search", "rank"];
const TILES = [
  ["rate", "Recommendations", "per second"],
  ["p50", "p50", "of POST /recommend"],
  ["p99", "p99", "of POST /recommend"],
  ["queue", "Queue", "waiting for the model"],
  ["fallbacks", "Fallbacks", "of recommendations"],
  ["errors", "Refused or failed", "of all requests"],
];

let readings = [];
let tiles = {};
let isSinceStart = false;

/** The choice of the time that the numbers are of. */
export function makeWindowChoice() {
  const choose = (event) => {
    isSinceStart = event.target.value === "start";
    if (readings.length) showNumbers();
  };
  const options = [["minute", "the last minute"], ["start", "since the service started"]].map(([value, text]) => h("option", { value }, text));
  return h("label", { class: "range-label" }, h("span", { class: "visually-hidden" }, "Time of the traffic"), h("select", { id: "window", onchange: choose }, options));
}

/** The tiles, empty. */
export function makeTiles() {
  tiles = Object.fromEntries(TILES.map(([name, title, note]) => [name, tile(title, note)]));
  return Object.values(tiles).map(({ element }) => element);
}

/** Begins anew, as after a while of not looking. */
export function forgetReadings() {
  readings = [];
  for (const it of Object.values(tiles)) it.series = [];
}

/** The samples of the last reading, or null. */
export const latest = () => readings.at(-1)?.samples ?? null;

/** Takes a reading of /metrics, and shows what happened since the ones before. */
export function noteMetrics(text) {
  readings = [...readings, { at: performance.now(), samples: parse(text) }].slice(-WINDOW - 1);
  showNumbers();
}

function tile(title, note) {
  const value = h("p", { class: "tile-value" }, "–");
  const chart = h("div", { class: "tile-chart" });
  const element = h("section", { class: "card stat", "aria-label": title }, h("h2", {}, title), value, chart, h("p", { class: "meta" }, note));
  return { element, value, chart, note: element.lastChild, series: [] };
}

function showNumbers() {
  const now = readings.at(-1);
  const first = readings.length > 1 && !isSinceStart ? readings[0] : null;
  const last = readings.at(-2) ?? null;
  const window = first ? Math.round((now.at - first.at) / 1_000) : 0;
  $("window-note").textContent = first
    ? `Numbers are of the last ${window} s, lines of every ${EVERY_MS / 1_000} s; this replica alone.`
    : `Numbers are since the service started${isSinceStart ? "" : ", until there is a window to look at"}; this replica alone.`;
  const sinceFirst = numbers(first, now);
  const sinceLast = last ? numbers(last, now) : null;
  const put = (name, text) => {
    const { value, chart, series } = tiles[name];
    value.textContent = text;
    if (sinceLast) series.push(sinceLast[name]);
    if (series.length > WINDOW) series.shift();
    clear(chart, sparkline(series, WINDOW));
  };
  put("rate", sinceFirst.rate === null ? "–" : number(sinceFirst.rate));
  put("p50", seconds(sinceFirst.p50));
  put("p99", seconds(sinceFirst.p99));
  put("queue", sinceFirst.queue === null ? "–" : count(sinceFirst.queue));
  put("fallbacks", sinceFirst.fallbacks === null ? "–" : percent(sinceFirst.fallbacks));
  tiles.fallbacks.note.textContent = sinceFirst.ordinary ? `of lists; ${percent(sinceFirst.ordinary)} are popular items for new visitors` : "of lists";
  put("errors", sinceFirst.errors === null ? "–" : percent(sinceFirst.errors));
  showStages(first?.samples ?? null, now.samples);
  showRoutes(first?.samples ?? null, now.samples);
}

/** The numbers of the tiles between two readings; `before` may be null for since the start. */
function numbers(before, after) {
  const from = before?.samples ?? null;
  const latency = observed(from, after.samples, HTTP, RECOMMEND);
  const answers = growth(from, after.samples, "hatstand_recommendations_total");
  const byModel = growth(from, after.samples, "hatstand_recommendations_total", { source: "model" });
  const ordinary = growth(from, after.samples, "hatstand_fallbacks_total", { reason: ORDINARY_REASON });
  const requests = growth(from, after.samples, `${HTTP}_count`);
  const failed = valuesOf(after.samples, `${HTTP}_count`, "status")
    .filter((status) => status === "429" || status >= "500")
    .reduce((sum, status) => sum + growth(from, after.samples, `${HTTP}_count`, { status }), 0);
  return {
    rate: before ? latency.count / ((after.at - before.at) / 1_000) : null,
    p50: quantile(latency, 0.5),
    p99: quantile(latency, 0.99),
    queue: total(after.samples, "hatstand_queue_users"),
    fallbacks: answers ? Math.max(answers - byModel - ordinary, 0) / answers : null,
    ordinary: answers ? ordinary / answers : null,
    errors: requests ? failed / requests : null,
  };
}

function showStages(before, after) {
  const rows = [];
  for (const kind of valuesOf(after, `${STAGE}_count`, "kind")) {
    for (const mode of valuesOf(after, `${STAGE}_count`, "mode")) {
      const names = valuesOf(after, `${STAGE}_count`, "stage");
      const stages = [...STAGES.filter((it) => names.includes(it)), ...names.filter((it) => !STAGES.includes(it))].map((stage) => {
        const wanted = { kind, mode, stage };
        const amount = growth(before, after, `${STAGE}_count`, wanted);
        return { stage, amount, mean: amount ? growth(before, after, `${STAGE}_sum`, wanted) / amount : 0 };
      });
      const all = stages.reduce((sum, { mean }) => sum + mean, 0);
      if (all > 0) rows.push(stageRow(`${nameOf(kind)}, ${mode}`, stages, all));
    }
  }
  clear($("stages"), rows.length ? rows : h("p", { class: "note" }, "No recommendation in this window."));
}

function stageRow(title, stages, all) {
  const amount = Math.max(...stages.map((it) => it.amount));
  return h(
    "div",
    { class: "stage-row" },
    h("p", {}, h("strong", {}, title), h("span", { class: "meta" }, ` mean ${seconds(all)} over ${count(amount)}`)),
    h("div", { class: "steps", "aria-hidden": "true" }, stages.map(({ stage, mean }) => h("span", { class: `step step-${stage}`, style: { "--share": mean / all } }))),
    h("ul", { class: "step-names" }, stages.map(({ stage, mean }) => h("li", {}, h("span", { class: `key step-${stage}`, "aria-hidden": "true" }), `${stage} ${seconds(mean)}`))),
  );
}

function showRoutes(before, after) {
  const routes = valuesOf(after, `${HTTP}_count`, "route")
    .map((route) => {
      const latency = observed(before, after, HTTP, { route });
      return { route, amount: latency.count, p50: quantile(latency, 0.5), p99: quantile(latency, 0.99) };
    })
    .filter(({ amount }) => amount > 0)
    .sort((a, b) => b.amount - a.amount)
    .slice(0, MAX_ROUTES);
  const row = ({ route, amount, p50, p99 }) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, breakable(route))), h("td", {}, count(amount)), h("td", {}, seconds(p50)), h("td", {}, seconds(p99)));
  const head = h("tr", {}, ["route", "requests", "p50", "p99"].map((name) => h("th", { scope: "col" }, name)));
  clear(
    $("routes"),
    routes.length
      ? h("table", { class: "plain", "aria-label": "Requests by route" }, h("thead", {}, head), h("tbody", {}, routes.map(row)))
      : h("p", { class: "note" }, "No request in this window."),
  );
}

/** A path that may be broken before each part, and nowhere else. */
const breakable = (path) => path.split(/(?=\/)/).flatMap((part, at) => (at ? [h("wbr"), part] : [part]));
