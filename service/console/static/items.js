// One recommended item, and what moved between two lists.

import { h } from "./dom.js";
import { percent, value } from "./format.js";
import { titleOf } from "./titles.js";

const SHOWN_REASONS = 2;
const HUES = [12, 42, 88, 150, 190, 225, 265, 320];

/** Attributes in one line, such as "Headphones · Tessera · price 119.99". */
export function facts(fields, names) {
  return names
    .filter((name) => fields[name] !== undefined)
    .map((name) => (typeof fields[name] === "string" || Array.isArray(fields[name]) ? value(fields[name]) : `${name} ${value(fields[name])}`))
    .join(" · ");
}

/** A list item; `column` knows the kind of model, `previous` is its rank before (0: new, null: nothing to compare). */
export function itemRow(item, { app, answer, previous, shown }) {
  const title = item.fields.title ?? item.item_id;
  const names = app.shownAttributes();
  return h(
    "li",
    { class: "item", "data-id": item.item_id },
    h("span", { class: "rank" }, String(item.rank)),
    h("span", { class: "tile", "aria-hidden": "true", style: { "--hue": hueOf(item.fields[names[0]] ?? title) } }, initial(title)),
    h(
      "div",
      { class: "item-body" },
      h("button", { class: "title", type: "button", onclick: () => app.report([item.item_id], answer.recommendation_id) }, title),
      h("p", { class: "meta" }, facts(item.fields, names)),
      h("p", { class: "also meta", hidden: true }),
    ),
    h(
      "div",
      { class: "item-end" },
      movement(item.rank, previous),
      h("span", { class: "score", title: scoreName(item, answer) }, scoreText(item, answer)),
      h("button", { class: "quiet icon", type: "button", "aria-label": `More about ${title}`, onclick: () => app.openItem(item.item_id, answer.recommendation_id) }, "⋯"),
    ),
    shown ? reasonBars(item.reasons) : null,
  );
}

/** Reasons as bars: the heaviest few, then how many more there are. */
export function reasonBars(reasons) {
  if (!reasons.length) return null;
  const rest = reasons.slice(SHOWN_REASONS);
  const restShare = rest.reduce((sum, { weight }) => sum + weight, 0);
  return h(
    "ul",
    { class: "reasons", "aria-label": "Because of" },
    reasons.slice(0, SHOWN_REASONS).map(({ item_id, weight }) => bar(titleOf(item_id), weight)),
    rest.length && restShare >= 0.005 ? bar(`${rest.length} more`, restShare, "rest") : null,
  );
}

function bar(text, weight, more = "") {
  return h(
    "li",
    { class: `reason ${more}` },
    h("span", { class: "reason-title", title: text }, text),
    h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: "fill", style: { "--share": weight } })),
    h("span", { class: "reason-share" }, percent(weight)),
  );
}

function movement(rank, previous) {
  if (previous === null || previous === rank) return h("span", { class: "moved same" });
  if (previous === 0) return h("span", { class: "moved new" }, "new");
  const isUp = previous > rank;
  const by = Math.abs(previous - rank);
  return h(
    "span",
    { class: `moved ${isUp ? "up" : "down"}` },
    h("span", { class: "visually-hidden" }, isUp ? `up ${by}` : `down ${by}`),
    h("span", { "aria-hidden": "true" }, `${isUp ? "▲" : "▼"} ${by}`),
  );
}

function scoreText(item, answer) {
  if (!answer.source.startsWith("model") && item.score === 0) return "";
  return answer.mode === "generate" && item.score <= 0 ? percentOfLog(item.score) : item.score.toFixed(3);
}

function scoreName(item, answer) {
  if (answer.mode === "generate" && item.score <= 0) return `log-probability of the title: ${item.score.toFixed(3)}`;
  return item.score === 0 ? "no model scored it" : "cosine with the user embedding";
}

function percentOfLog(score) {
  const share = Math.exp(score) * 100;
  return share >= 0.01 ? `${share.toFixed(2)} %` : `${share.toExponential(0)} %`;
}

function initial(title) {
  return [...title].find((letter) => /[\p{L}\p{N}]/u.test(letter))?.toUpperCase() ?? "·";
}

/** The same colour for the same word. */
function hueOf(word) {
  let sum = 7;
  for (const letter of String(word)) sum = (sum * 31 + letter.codePointAt(0)) % 9_973;
  return HUES[sum % HUES.length];
}
