// Keys: what they do, and a list of them.

import { $, clear, h } from "./dom.js";

const KEYS = [
  ["/", "search the catalogue"],
  ["↑ ↓", "go along a list, results, or the history"],
  ["Enter", "open the details of an item"],
  ["c", "Click the item of the list that has the focus"],
  ["b", "Buy it"],
  ["← →", "go along filters and visitors"],
  ["Escape", "close a dialog or a filter; empty the search"],
  ["?", "this list"],
];

export function initKeys() {
  $("help-button").addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const work = { "/": toSearch, "?": showKeys, c: () => press("click"), b: () => press("purchase") }[event.key];
    if (work && work() !== false) event.preventDefault();
  });
}

/** Presses a button of the row that has the focus; false if there is none. */
function press(act) {
  const button = document.activeElement?.closest("li")?.querySelector(`[data-act="${act}"]`);
  button?.click();
  return Boolean(button);
}

function toSearch() {
  const focus = () => $("search").focus();
  if (!$("view-recommend").hidden) return focus();
  addEventListener("hashchange", () => setTimeout(focus), { once: true });
  $("to-recommend").click();
}

function showKeys() {
  const dialog = $("help-dialog");
  clear(
    dialog,
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "help-title" }, "Keys"),
      h("dl", { class: "facts keys" }, KEYS.map(([key, text]) => [h("dt", {}, key.split(" ").map((it) => h("kbd", {}, it))), h("dd", {}, text)])),
      h("div", { class: "dialog-actions" }, h("button", { type: "submit" }, "Close")),
    ),
  );
  dialog.showModal();
}
