// The scenarios of the service: what each does to a list, and a link that tries it.

import { addressOf } from "./address.js";
import { $, clear, h } from "./dom.js";
import { plural, value } from "./format.js";
import { nameOf } from "./controls.js";
import { state } from "./state.js";
import { learnTitles, titleOf } from "./titles.js";

const MAX_TITLES = 12;

export async function showScenarioPage(app) {
  const pinned = app.scenarios.flatMap(({ rules }) => [...rules.pins.map(({ item_id }) => item_id), ...rules.exclude_item_ids, ...rules.boosts.flatMap(({ item_ids }) => item_ids ?? [])]);
  await learnTitles(pinned);
  clear(
    $("view-scenarios"),
    h("h1", {}, "Scenarios"),
    h("p", { class: "note" }, "Rules by name for a place in the shop: a request that names one gets them. They come from the file of HATSTAND_SCENARIOS."),
    h("div", { class: "scenario-cards" }, app.scenarios.map(card)),
  );
}

function card({ name, version, rules }) {
  const user = state.who === "user" ? state.userId : null;
  return h(
    "section",
    { class: "card scenario", "aria-label": name },
    h("header", { class: "card-head" }, h("h2", {}, name), h("a", { class: "button", href: addressOf({ user, scenario: name }), "aria-label": `Try ${name}` }, "Try it")),
    h("p", {}, rules.description || "No description."),
    h("dl", { class: "facts" }, rows(rules).map(([term, lines]) => [h("dt", {}, term), h("dd", {}, lines.map((line) => h("p", {}, line)))])),
    h("p", { class: "meta" }, `version ${version}`),
  );
}

/** What a scenario says, as [what, lines]. */
function rows(rules) {
  const seconds = rules.seen_max_age_seconds;
  const said = [
    ["Pinned", rules.pins.map(({ item_id, position }) => `${position}: ${titleOf(item_id)}`)],
    ["Boosted", rules.boosts.map(boost)],
    ["At most", Object.entries(rules.max_per).map(([name, amount]) => `${amount} per ${word(name)}`)],
    ["Only", filterLines(rules.filter)],
    ["Never", someTitles(rules.exclude_item_ids)],
    ["Diversity", rules.diversity === null ? [] : [String(rules.diversity)]],
    ["Seen items", rules.exclude_seen === null ? [] : [rules.exclude_seen ? "left out" : "may come back"]],
    ["Seen means", rules.seen_types === null ? [] : [rules.seen_types.map(word).join(", ") || "any event"]],
    ["Seen for", seconds === null ? [] : [seconds >= 86_400 ? plural(Math.round(seconds / 86_400), "day") : plural(seconds, "second")]],
    ["Model", rules.model === null ? [] : [nameOf(rules.model)]],
    ["Mode", rules.mode === null ? [] : [rules.mode]],
  ];
  return said.filter(([, lines]) => lines.length);
}

function boost({ item_ids, filter, multiply, add }) {
  const what = item_ids ? someTitles(item_ids).join(", ") : filterLines(filter).join(" and ") || "everything";
  return `${what}${multiply === 1 ? "" : ` × ${multiply}`}${add ? ` ${add > 0 ? "+" : "−"} ${Math.abs(add)}` : ""}`;
}

function someTitles(itemIds) {
  const rest = itemIds.length - MAX_TITLES;
  return [...itemIds.slice(0, MAX_TITLES).map(titleOf), ...(rest > 0 ? [`${rest} more`] : [])];
}

/** The conditions of a filter, a line each; all of them must hold. */
export function filterLines(filter) {
  return Object.entries(filter ?? {}).flatMap(([name, condition]) => {
    if (condition === null) return [];
    if (name === "not") return [`not (${filterLines(condition).join(" and ")})`];
    if (name === "and" || name === "or") return condition.length ? [together(condition.map((it) => together(filterLines(it), "and")), name)] : [];
    return conditionLines(word(name), condition);
  });
}

const together = (lines, word) => (lines.length === 1 ? lines[0] : `(${lines.join(` ${word} `)})`);

function conditionLines(name, { any_of, none_of, gte, lte, gt, lt, exists }) {
  const there = (it) => it !== undefined && it !== null;
  return [
    there(any_of) ? `${name} is ${any_of.map(value).join(" or ")}` : null,
    there(none_of) ? `${name} is not ${none_of.map(value).join(" nor ")}` : null,
    there(gte) ? `${name} ≥ ${value(gte)}` : null,
    there(lte) ? `${name} ≤ ${value(lte)}` : null,
    there(gt) ? `${name} > ${value(gt)}` : null,
    there(lt) ? `${name} < ${value(lt)}` : null,
    there(exists) ? `${name} is ${exists ? "given" : "not given"}` : null,
  ].filter(Boolean);
}

const word = (name) => name.replaceAll("_", " ");
