// Filters made of what the catalogue has: words with their counts, numbers with their range, flags.

import { $, clear, h, later } from "./dom.js";
import { controlsChanged } from "./controls.js";
import { specialAttributes } from "./fields.js";
import { count, number, value as shown } from "./format.js";
import { roving } from "./roving.js";
import { keep, state } from "./state.js";
import { titleOf } from "./titles.js";

const WAIT_MS = 250;
const SEARCHABLE = 10;

let attributes = [];
let refresh = () => {};
let total = 0;

export function initFilters(app) {
  refresh = () => app.refresh();
  roving($("filters"), { groups: ".drop", stops: "summary", keys: "horizontal" });
  document.addEventListener("click", (event) => {
    for (const drop of openDrops()) if (!drop.contains(event.target)) drop.open = false;
  });
  $("filters").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const drop of openDrops()) {
      drop.open = false;
      drop.querySelector("summary").focus();
    }
  });
}

const openDrops = () => $("filters").querySelectorAll("details[open]");

/** Offers the attributes of a catalogue; conditions on others are dropped. */
export function showFilters(catalogue) {
  const special = specialAttributes(catalogue.attributes.map(({ name }) => name));
  attributes = catalogue.attributes.filter((it) => it.kind !== "other" && !special.includes(it.name) && (it.kind !== "number" || it.smallest !== null));
  total = catalogue.num_items;
  const names = new Set(attributes.map(({ name }) => name));
  for (const name of Object.keys(state.filter)) if (!names.has(name)) delete state.filter[name];
  clear($("filters"), attributes.map(drop));
  showActive();
}

function drop(attribute) {
  const body = h("div", { class: "drop-body" });
  const make = { words: wordsFilter, number: numberFilter, flag: flagFilter }[attribute.kind];
  const details = h(
    "details",
    { class: "drop", "data-attribute": attribute.name, name: "filter" },
    h("summary", {}, h("span", { class: "drop-name" }, label(attribute.name)), h("span", { class: "drop-value" })),
    body,
  );
  // Only an open one is filled: a catalogue may have many attributes of many values.
  details.addEventListener("toggle", () => {
    if (details.open) clear(body, make(attribute));
  });
  return details;
}

function wordsFilter(attribute) {
  const list = h("ul", { class: "choices" });
  const all = withChosen(attribute);
  const fill = (words) => {
    const wanted = words.toLowerCase();
    const found = all.filter(({ value }) => String(value).toLowerCase().includes(wanted));
    clear(list, found.map((it) => choice(attribute, it)));
    if (!found.length) list.append(h("li", { class: "note" }, "None of the values that are offered here."));
  };
  fill("");
  const search = h("input", {
    type: "search",
    placeholder: `Find a ${label(attribute.name).toLowerCase()}`,
    "aria-label": `Find a value of ${label(attribute.name)}`,
    oninput: (event) => fill(event.target.value),
  });
  const numHidden = attribute.num_distinct - attribute.values.length;
  return [
    all.length > SEARCHABLE ? search : null,
    list,
    numHidden > 0 ? h("p", { class: "note" }, `${count(numHidden)} rarer values are not offered here.`) : null,
    clearButton(attribute.name),
  ];
}

/** The offered values, after those that are chosen and no longer offered. */
function withChosen(attribute) {
  const offered = new Set(attribute.values.map(({ value }) => value));
  const strangers = chosenOf(attribute.name).filter((value) => !offered.has(value));
  return [...strangers.map((value) => ({ value, count: 0 })), ...attribute.values];
}

function choice(attribute, { value, count: amount }) {
  const change = (event) => {
    const chosen = chosenOf(attribute.name).filter((it) => it !== value);
    if (event.target.checked) chosen.push(value);
    set(attribute.name, chosen.length ? { any_of: chosen } : null);
  };
  return h(
    "li",
    {},
    h(
      "label",
      { class: "choice" },
      h("input", { type: "checkbox", checked: chosenOf(attribute.name).includes(value), onchange: change }),
      h("span", { class: "choice-name" }, shown(value)),
      h("span", { class: "meta" }, count(amount)),
    ),
  );
}

function numberFilter(attribute) {
  const soon = later(() => set(attribute.name, read()), WAIT_MS);
  const most = Math.max(...attribute.bins, 1);
  const { edges } = attribute;
  const bars = attribute.bins.map((amount, at) => h("span", { class: "bin", title: `${number(edges[at])} to ${number(edges[at + 1])}: ${count(amount)}`, style: { "--height": amount / most } }));
  const light = () => {
    const condition = read() ?? {};
    bars.forEach((bar, at) => {
      bar.classList.toggle("out", edges[at] > (condition.lte ?? Infinity) || edges[at + 1] <= (condition.gte ?? -Infinity));
    });
  };
  const input = (end, bound, text) =>
    h("input", {
      type: "number",
      step: "any",
      placeholder: number(bound),
      value: state.filter[attribute.name]?.[end] ?? "",
      "aria-label": `${label(attribute.name)}, ${text}`,
      oninput: () => {
        light();
        soon();
      },
    });
  const low = input("gte", attribute.smallest, "at least");
  const high = input("lte", attribute.largest, "at most");
  const read = () => {
    const ends = [["gte", low], ["lte", high]].filter(([, it]) => it.value !== "" && Number.isFinite(Number(it.value)));
    return ends.length ? Object.fromEntries(ends.map(([end, it]) => [end, Number(it.value)])) : null;
  };
  light();
  return [
    h("div", { class: "bins", "aria-hidden": "true" }, bars),
    h("div", { class: "bin-ends", "aria-hidden": "true" }, [0, Math.floor(bars.length / 2), bars.length].map((at) => h("span", {}, number(edges[at])))),
    h("div", { class: "range" }, low, h("span", { "aria-hidden": "true" }, "–"), high),
    clearButton(attribute.name),
  ];
}

function flagFilter(attribute) {
  const now = state.filter[attribute.name]?.any_of?.[0];
  const amounts = new Map(attribute.values.map((it) => [it.value, it.count]));
  const radio = (text, value, amount) =>
    h(
      "li",
      {},
      h(
        "label",
        { class: "choice" },
        h("input", {
          type: "radio",
          name: `flag-${attribute.name}`,
          checked: now === value,
          onchange: () => set(attribute.name, value === undefined ? null : { any_of: [value] }),
        }),
        h("span", { class: "choice-name" }, text),
        h("span", { class: "meta" }, count(amount)),
      ),
    );
  return h("ul", { class: "choices" }, radio("any", undefined, total), radio("yes", true, amounts.get(true) ?? 0), radio("no", false, amounts.get(false) ?? 0));
}

function clearButton(name) {
  return h(
    "button",
    {
      class: "quiet",
      type: "button",
      onclick: (event) => {
        const drop = event.target.closest("details");
        set(name, null);
        drop.open = false;
        drop.querySelector("summary").focus();
      },
    },
    "Clear",
  );
}

const chosenOf = (name) => [...(state.filter[name]?.any_of ?? [])];

function set(name, condition) {
  if (condition) state.filter[name] = condition;
  else delete state.filter[name];
  changed();
}

/** Leaves an item out of every list, until its chip is taken away. */
export function exclude(itemId) {
  if (!state.excluded.includes(itemId)) state.excluded.push(itemId);
  changed();
}

function changed() {
  keep();
  showActive();
  refresh();
}

function showActive() {
  for (const drop of $("filters").querySelectorAll("details.drop")) {
    const text = describe(state.filter[drop.dataset.attribute]);
    drop.classList.toggle("on", Boolean(text));
    drop.querySelector(".drop-value").textContent = text;
  }
  const excluded = state.excluded.map((itemId) =>
    chip(`not ${titleOf(itemId)}`, () => {
      state.excluded = state.excluded.filter((it) => it !== itemId);
      changed();
    }),
  );
  const isAny = Object.keys(state.filter).length + excluded.length > 0;
  const reset = h(
    "button",
    {
      class: "quiet",
      type: "button",
      onclick: () => {
        state.filter = {};
        state.excluded = [];
        changed();
        $("filters").querySelector("summary")?.focus();
      },
    },
    "Clear all",
  );
  clear($("active-filters"), excluded, isAny ? reset : null);
  controlsChanged();
}

function chip(text, onclick) {
  return h("button", { class: "chip on", type: "button", onclick, "aria-label": `Remove: ${text}` }, text, h("span", { "aria-hidden": "true" }, " ×"));
}

function describe(condition) {
  if (!condition) return "";
  if (condition.any_of) {
    const [first, ...rest] = condition.any_of.map(shown);
    return rest.length ? `${first} +${rest.length}` : first;
  }
  const { gte, lte } = condition;
  if (gte !== undefined && lte !== undefined) return `${number(gte)}–${number(lte)}`;
  return gte === undefined ? `≤ ${number(lte)}` : `≥ ${number(gte)}`;
}

/** An attribute's name as a label. */
function label(name) {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
