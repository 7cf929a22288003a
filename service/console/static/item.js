// Everything about one item, and what can be done with it.

import { ask, has, inPath } from "./api.js";
import { $, clear, confirmed, h, toast } from "./dom.js";
import { exclude } from "./filters.js";
import { value } from "./format.js";
import { learn, titleOf } from "./titles.js";

const NUM_SIMILAR = 6;
let shown = null;

/** Opens the dialog of an item; what is clicked there counts for the recommendation that it came from. */
export async function openItem(app, itemId, recommendationId = null) {
  const dialog = $("item-dialog");
  shown = itemId;
  const body = h("div", { class: "item-dialog-body" }, h("p", { class: "note" }, "Loading"));
  const close = (then) => () => {
    dialog.close();
    then();
  };
  const button = (text, then, look = "quiet") => h("button", { type: "button", class: look, onclick: close(then) }, text);
  clear(
    dialog,
    h("header", { class: "dialog-head" }, h("h2", { id: "item-title" }, titleOf(itemId)), h("button", { class: "quiet icon", type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
    body,
    h(
      "div",
      { class: "dialog-actions" },
      has("hide") ? button("Hide from everybody", () => hide(app, itemId)) : null,
      button("Leave out of the lists", () => exclude(itemId)),
      button("Report a click", () => app.report([itemId], recommendationId), "primary"),
    ),
  );
  if (!dialog.open) dialog.showModal();
  try {
    const [item, similar] = await Promise.all([
      ask("GET", `items/${inPath(itemId)}`),
      ask("GET", `items/${inPath(itemId)}/similar?k=${NUM_SIMILAR}`).catch(() => ({ items: [] })),
    ]);
    if (shown !== itemId) return;
    learn(itemId, item.fields);
    $("item-title").textContent = titleOf(itemId);
    clear(body, about(item), similar.items.length ? alike(app, similar.items) : null);
  } catch (error) {
    if (shown === itemId) clear(body, h("p", { class: "problem", role: "alert" }, error.message));
  }
}

function about(item) {
  const rows = [["item id", item.item_id], ...Object.entries(item.fields).filter(([name]) => name !== "title")];
  return h("dl", { class: "facts" }, rows.map(([name, it]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, value(it))]));
}

function alike(app, items) {
  const row = (item) => {
    learn(item.item_id, item.fields);
    return h(
      "li",
      { class: "row-item" },
      h("button", { class: "title", type: "button", onclick: () => openItem(app, item.item_id) }, item.fields.title ?? item.item_id),
      h("span", { class: "meta end", title: "cosine of the two embeddings" }, item.score.toFixed(3)),
    );
  };
  return [h("h3", {}, "Nearest to it"), h("ul", { class: "rows" }, items.map(row))];
}

async function hide(app, itemId) {
  const text = `${titleOf(itemId)} is not recommended to anybody from now on, by any replica, until it is shown again under Operations.`;
  if (!(await confirmed({ title: "Hide this item?", text, yes: "Hide" }))) return;
  try {
    await ask("POST", `admin/items/${inPath(itemId)}/hide`);
    toast(`Hidden: ${titleOf(itemId)}`);
    await app.refresh();
  } catch (error) {
    toast(`Not hidden: ${error.message}`, "error");
  }
}

/** Shows what the service wrote down about an answer. */
export async function openDecision(recommendationId) {
  const dialog = $("item-dialog");
  const text = h("pre", { tabindex: "0", role: "region", "aria-label": "The record" }, "Loading");
  clear(
    dialog,
    h("header", { class: "dialog-head" }, h("h2", { id: "item-title" }, "Decision record"), h("button", { class: "quiet icon", type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
    text,
  );
  shown = recommendationId;
  dialog.showModal();
  try {
    text.textContent = JSON.stringify(await ask("GET", `recommendations/${inPath(recommendationId)}`), null, 2);
  } catch (error) {
    text.textContent = error.message;
  }
}
