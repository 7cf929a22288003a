// Looking for items by the words of their titles.

import { ask, isAborted } from "./api.js";
import { $, clear, h, later } from "./dom.js";
import { plural } from "./format.js";
import { facts } from "./items.js";
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
    return h(
      "li",
      { class: "row-item" },
      h("button", { class: "title", type: "button", onclick: () => app.report([item_id]) }, fields.title ?? item_id),
      h("span", { class: "meta" }, facts(fields, app.shownAttributes())),
      h("button", { class: "quiet icon", type: "button", "aria-label": `More about ${fields.title ?? item_id}`, onclick: () => app.openItem(item_id) }, "⋯"),
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
  results.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const titles = [...results.querySelectorAll("button.title")];
    const at = titles.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    (at < 0 ? input : (titles[at] ?? document.activeElement)).focus();
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    location.hash = "#recommend";
    input.focus();
  });
}
