// A beginning for whoever has no history: what is popular for a value of the attribute that has the fewest.

import { ask } from "./api.js";
import { $, announce, clear, h, toast } from "./dom.js";
import { roving } from "./roving.js";

const NUM_ITEMS = 3;
const MAX_OFFERED = 8;
const MAX_VALUES = 12;

export function initQuickStarts() {
  roving($("quick-starts"), { groups: ".chip", stops: ".chip", keys: "horizontal" });
}

/** Offers a button per value. */
export function offerQuickStarts(app) {
  const attributes = app.catalogue.attributes.filter((it) => it.kind === "words" && it.values.length >= 2 && it.values.length <= MAX_VALUES);
  const attribute = attributes.sort((a, b) => a.values.length - b.values.length)[0];
  const values = attribute ? attribute.values.slice(0, MAX_OFFERED) : [];
  const button = ({ value }) => h("button", { class: "chip", type: "button", onclick: () => start(app, attribute.name, value) }, value);
  clear($("quick-starts").querySelector(".chips"), values.map(button));
}

/** They are of use only as long as nothing is known. */
export function showQuickStarts(isWanted) {
  $("quick-starts").hidden = !isWanted || !$("quick-starts").querySelector("button");
}

/** A list at once, where nobody is known: the first of them. */
export async function startAnywhere(app) {
  const chip = $("quick-starts").querySelector(".chip");
  if (chip && !$("quick-starts").hidden && app.columns.length) chip.click();
}

async function start(app, name, value) {
  const body = { history: [], k: NUM_ITEMS, filter: { [name]: { any_of: [value] } } };
  try {
    const popular = await ask("POST", "recommend", { body });
    announce(`Starting from ${value}`);
    // the most popular one last, so that it is the latest
    await app.report(popular.items.map((item) => item.item_id).reverse(), "click");
  } catch (error) {
    toast(`That did not work: ${error.message}`, "error");
  }
}
