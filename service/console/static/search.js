// Looking for items by the words of their titles.

import { ask, isAborted } from "./api.js";
import { $, clear, h, later } from "./dom.js";
import { facts } from "./fields.js";
import { plural } from "./format.js";
import { acts } from "./items.js";
import { roving } from "./roving.js";
import { learn } from "./titles.js";

const LIMIT = 20;
const WAIT_MS = 150;
let running = null;

export function initSearch(app) {
  const input = $("search");
  const results = $("search-results");

  async function find() {
    running?.abort();
    const words = input.value.trim();
    if (!words) {
      clear(results);
      $("search-note").textContent = "";
      return;
    }
    running = new AbortController();
    try {
      const query = new URLSearchParams({ query: words, limit: LIMIT });
      const answer = await ask("GET", `items?${query}`, { signal: running.signal });
      clear(results, answer.items.map(row));
      const isAll = answer.items.length < LIMIT;
      $("search-note").textContent = answer.items.length
        ? isAll
          ? plural(answer.items.length, "item")
          : `The ${LIMIT} most popular; more words find fewer.`
        : "No title has all of these words.";
    } catch (error) {
      if (isAborted(error)) return;
      clear(results);
      $("search-note").textContent = error.message;
    }
  }

  function row({ item_id, fields }) {
    learn(item_id, fields);
    const title = fields.title ?? item_id;
    return h(
      "li",
      { class: "row-item" },
      h("button", { class: "title", type: "button", onclick: () => app.openItem(item_id) }, title),
      h("span", { class: "meta" }, facts(fields, app.shownAttributes())),
      acts(app, item_id, title),
    );
  }

  input.addEventListener("input", later(find, WAIT_MS));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && input.value) {
      input.value = "";
      event.preventDefault();
      find();
    }
    if (event.key === "ArrowDown") {
      results.querySelector("button.title")?.focus();
      event.preventDefault();
    }
  });
  roving(results, { groups: "li", leave: () => input.focus() });
}
