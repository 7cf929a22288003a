// One recommended item, and what moved between two lists.

import { h } from "./dom.js";
import { facts, pictureOf } from "./fields.js";
import { percent } from "./format.js";
import { titleOf } from "./titles.js";

const SHOWN_REASONS = 4;
const HUES = [12, 42, 88, 150, 190, 225, 265, 320];

/** A list item; `previous` is its rank before (0: new, null: nothing to compare with). */
export function itemRow(item, { app, answer, previous }) {
  const title = item.fields.title ?? item.item_id;
  const names = app.shownAttributes();
  return h(
    "li",
    { class: "item", "data-id": item.item_id },
    h("span", { class: "rank" }, String(item.rank)),
    tile(item.fields, item.fields[names[0]] ?? title, title),
    h(
      "div",
      { class: "item-body" },
      h("button", { class: "title", type: "button", onclick: () => app.openItem(item.item_id, answer.recommendation_id) }, title),
      h("div", { class: "item-marks" }, h("p", { class: "meta" }, facts(item.fields, names)), item.pinned ? mark("pinned") : null, item.boosted ? mark("boosted") : null),
      because(item.reasons),
    ),
    h(
      "div",
      { class: "item-end" },
      h("div", { class: "numbers" }, movement(item.rank, previous), h("span", { class: "score", title: scoreName(item, answer) }, scoreText(item, answer))),
      acts(app, item.item_id, title, answer.recommendation_id),
    ),
  );
}

/** The buttons that report something of an item. */
export function acts(app, itemId, title, recommendationId = null) {
  const act = (text, type) =>
    h("button", { class: "small", type: "button", "data-act": type, "aria-label": `${text} ${title}`, onclick: () => app.report([itemId], type, recommendationId) }, text);
  return h("div", { class: "acts" }, act("Click", "click"), act("Buy", "purchase"));
}

export const mark = (text, look = "") => h("span", { class: `badge ${look}` }, text);

/** The picture of an item, or its first letter on a colour of its kind. */
function tile(fields, kind, title) {
  const letter = initial(title);
  const place = h("span", { class: "tile", "aria-hidden": "true", style: { "--hue": hueOf(kind) } });
  const picture = pictureOf(fields);
  // where the picture does not come, the letter does
  if (picture) place.append(h("img", { src: picture, alt: "", loading: "lazy", referrerpolicy: "no-referrer", onerror: () => place.replaceChildren(letter) }));
  else place.append(letter);
  return place;
}

/** The heaviest reason in a line; all of them when it is opened. */
function because(reasons) {
  if (!reasons.length) return null;
  const [first] = reasons;
  return h("details", { class: "because" }, h("summary", {}, `${percent(first.weight)} because of ${titleOf(first.item_id)}`), reasonBars(reasons));
}

/** Reasons as bars: the heaviest few, then how many more there are. */
function reasonBars(reasons) {
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
  if (previous === null || previous === rank) return null;
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
