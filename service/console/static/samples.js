// Visitors of the data, to look at with one click: the service names some who have a history.

import { ask } from "./api.js";
import { $, clear, h } from "./dom.js";
import { roving } from "./roving.js";
import { state } from "./state.js";

let visitors = [];
let app = null;

export function initSamples(theApp) {
  app = theApp;
  roving($("samples"), { groups: ".chip", stops: ".chip", keys: "horizontal" });
}

/** Asks for them once; without the scope admin there are none. Resolves to the first, or null. */
export async function findSamples() {
  try {
    visitors = (await ask("GET", "console/visitors", { quietly: true })).visitors;
  } catch {
    visitors = [];
  }
  showSamples(state.who === "user");
  return visitors[0] ?? null;
}

export function showSamples(isWanted) {
  $("samples").hidden = !isWanted || !visitors.length;
  if ($("samples").hidden) return;
  const chip = ({ user_id, events }) =>
    h("button", { class: `chip ${user_id === state.userId ? "on" : ""}`, type: "button", title: user_id, onclick: () => app.showUser(user_id) }, user_id, h("span", { class: "count", title: "events" }, String(events)));
  const focused = [...$("samples").querySelectorAll(".chip")].indexOf(document.activeElement);
  clear($("samples").querySelector(".chips"), visitors.map(chip));
  if (focused >= 0) $("samples").querySelectorAll(".chip")[focused]?.focus();
}
