// Everything about one item, and what can be done with it.

import { ask, has, inPath } from "./api.js";
import { $, clear, confirmed, h, toast } from "./dom.js";
import { pictureOf, shownField } from "./fields.js";
import { exclude } from "./filters.js";
import { roving } from "./roving.js";
import { learn, titleOf } from "./titles.js";

const NUM_SIMILAR = 6;
let shown = null;

export const dialogHead = (title) =>
  h("header", { class: "dialog-head" }, h("h2", { id: "item-title" }, title), h("button", { class: "quiet icon", type: "button", "aria-label": "Close", onclick: () => $("item-dialog").close() }, "×"));

/** Opens the dialog of an item; what is reported there counts for the recommendation that it came from. */
export async function openItem(app, itemId, recommendationId = null) {
  const dialog = $("item-dialog");
  shown = itemId;
  const body = h("div", { class: "item-dialog-body" }, h("p", { class: "note" }, "Loading"));
  const button = (text, then, look = "") =>
    h("button", { type: "button", class: look, onclick: () => (dialog.close(), then()) }, text);
  clear(
    dialog,
    dialogHead(titleOf(itemId)),
    body,
    h(
      "div",
      { class: "dialog-actions" },
      has("hide") ? button("Hide from everybody", () => hide(app, itemId), "danger") : null,
      button("Leave out of the lists", () => exclude(itemId)),
      button("Click", () => app.report([itemId], "click", recommendationId), "primary"),
      button("Buy", () => app.report([itemId], "purchase", recommendationId), "primary"),
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

/** What the dialog shows now is no item any more. */
export function leaveItem() {
  shown = null;
}

function about(item) {
  const picture = pictureOf(item.fields);
  const names = Object.keys(item.fields).filter((name) => name !== "title");
  const rows = [["item id", item.item_id], ...names.map((name) => [name, shownField(name, item.fields)])];
  return [
    picture ? h("img", { class: "picture", src: picture, alt: "", referrerpolicy: "no-referrer", onerror: (event) => event.target.remove() }) : null,
    h("dl", { class: "facts" }, rows.map(([name, it]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, it)])),
  ];
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
  const list = h("ul", { class: "rows" }, items.map(row));
  roving(list, { groups: "li" });
  return [h("h3", {}, "Nearest to it"), list];
}

async function hide(app, itemId) {
  const text = `${titleOf(itemId)} is not recommended to anybody from now on, by any replica, until it is shown again under Operations.`;
  if (!(await confirmed({ title: "Hide this item?", text, yes: "Hide", isDangerous: true }))) return;
  try {
    await ask("POST", `admin/items/${inPath(itemId)}/hide`);
    toast(`Hidden: ${titleOf(itemId)}`);
    await app.refresh();
  } catch (error) {
    toast(`Not hidden: ${error.message}`, "error");
  }
}
