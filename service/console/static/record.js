// A decision record, drawn: what was asked, what became of the steps, how few of the items were left, what they were.

import { ask, inPath } from "./api.js";
import { nameOf } from "./controls.js";
import { $, clear, h } from "./dom.js";
import { count, milliseconds, plural } from "./format.js";
import { dialogHead, leaveItem } from "./item.js";
import { timeBar } from "./how.js";
import { learnTitles, titleOf } from "./titles.js";

const MAX_ITEMS = 50;
const STAGES = [
  ["admissible", "may be returned"],
  ["fetched", "looked at"],
  ["capped", "beyond a cap"],
  ["generated", "generated"],
  ["retrieved", "retrieved"],
  ["popular", "popular"],
  ["pinned", "pinned"],
];
const DONE = new Set(["answered", "repeated"]);

/** Shows what the service wrote down about an answer. */
export async function openDecision(recommendationId) {
  const dialog = $("item-dialog");
  leaveItem();
  const body = h("div", { class: "record" }, h("p", { class: "note" }, "Loading"));
  clear(dialog, dialogHead("Decision record"), body);
  dialog.showModal();
  try {
    const record = await ask("GET", `recommendations/${inPath(recommendationId)}`);
    await learnTitles(record.items.slice(0, MAX_ITEMS).map(({ item_id }) => item_id));
    clear(body, drawn(record));
  } catch (error) {
    clear(body, h("p", { class: "problem", role: "alert" }, error.message));
  }
}

function drawn(record) {
  const { versions, history } = record;
  const facts = [
    ["when", new Date(record.created_at).toLocaleString("en")],
    ["for", record.user_id ?? record.session_id ?? "a history in the request"],
    ["asked by", record.asked_by],
    ["model", `${nameOf(versions.kind)}, ${versions.mode}`],
    ["bundle", versions.bundle],
    ["scenario", versions.scenario ? `${versions.scenario.name}, version ${versions.scenario.version}` : null],
    ["experiment", record.experiment ? `${record.experiment.name}: ${record.experiment.arm}` : null],
    ["history", `${plural(history.length, "item")}, ${history.known} in the catalogue, ${history.read} read${history.is_current ? "" : "; the last known one"}`],
    ["excluded", record.excluded.count ? plural(record.excluded.count, "item") : null],
    ["hidden", record.hidden.count ? plural(record.hidden.count, "item") : null],
  ];
  return [
    h("dl", { class: "facts" }, facts.filter(([, it]) => it).map(([name, it]) => [h("dt", {}, name), h("dd", {}, it)])),
    h("h3", {}, "Steps"),
    h("ol", { class: "ladder" }, record.steps.map(step)),
    ...record.warnings.map((it) => h("p", { class: "note" }, it)),
    h("h3", {}, "Number of items after each step"),
    funnel(record),
    h("h3", {}, `Time: ${milliseconds(record.timing_ms.total)}`),
    ...timeBar(record.timing_ms),
    h("h3", {}, "The list"),
    h("ol", { class: "recorded" }, record.items.slice(0, MAX_ITEMS).map(item)),
    h("details", { class: "how" }, h("summary", {}, "As JSON"), h("pre", { tabindex: "0", role: "region", "aria-label": "The record" }, JSON.stringify(record, null, 2))),
  ];
}

function step({ step: name, reason }) {
  const isDone = DONE.has(reason);
  return h("li", { class: `check ${isDone ? "fine" : ""}` }, h("span", { class: "mark", "aria-hidden": "true" }, isDone ? "✓" : "·"), h("span", { class: "check-name" }, name.replaceAll("_", " ")), h("span", { class: "meta" }, reason.replaceAll("_", " ")));
}

/** Bars of the numbers of items, on a logarithmic scale: from a million to ten. */
function funnel({ counts, items }) {
  const rows = [...STAGES.filter(([name]) => counts[name]).map(([name, text]) => [text, counts[name]]), ["in the answer", items.length]];
  const most = Math.log1p(Math.max(...rows.map(([, amount]) => amount), 1));
  return h(
    "ul",
    { class: "reasons kind-hllm" },
    rows.map(([text, amount]) =>
      h(
        "li",
        { class: "reason" },
        h("span", { class: "reason-title" }, text),
        h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: "fill", style: { "--share": Math.log1p(amount) / most } })),
        h("span", { class: "reason-share" }, count(amount)),
      ),
    ),
  );
}

const item = ({ item_id, score }) => h("li", {}, h("span", {}, titleOf(item_id)), h("span", { class: "score" }, score.toFixed(3)));
