// Puts the parts together.

import { ask, askForKey, has, wantsKey } from "./api.js";
import { initControls, showModels, showScenarios, shownKinds } from "./controls.js";
import { $, clear, h, toast } from "./dom.js";
import { count, plural } from "./format.js";
import { initFilters, showFilters } from "./filters.js";
import { openDecision, openItem } from "./item.js";
import { Column, announceLists, compare } from "./lists.js";
import { checkHealth, initOperations, showBundles, watchOperations } from "./operations.js";
import { openUser, state } from "./state.js";
import { initSearch } from "./search.js";
import { offerQuickStarts } from "./quick_starts.js";
import { initVisitor, loadHistory, report } from "./visitor.js";
import { showWhy } from "./why.js";

const HEALTH_MS = 15_000;

const app = {
  models: {},
  defaultKind: null,
  version: "",
  experiment: null,
  catalogue: null,
  columns: [],
  isStarted: false,

  /** Attributes worth a place in a list: two of words that tell kinds of things apart, and a number. */
  shownAttributes() {
    const attributes = this.catalogue?.attributes ?? [];
    const words = attributes.filter(({ kind, values }) => kind === "words" && values.length).sort(byPromise);
    const numbers = attributes.filter(({ kind, smallest }) => kind === "number" && smallest !== null).sort(byPromise);
    return [...words.slice(0, 2), ...numbers.slice(0, 1)].map(({ name }) => name);
  },

  /** Asks every shown model anew. */
  async refresh() {
    const before = new Map(this.columns.map((column) => [column.kind, column.ranks]));
    const columns = this.columns;
    const answers = await Promise.all(columns.map((column) => column.refresh()));
    if (columns !== this.columns) return;
    if (answers.every((answer) => answer === null)) return;
    announceLists(columns, before);
    this.listsChanged();
    const isOther = answers.some((answer) => answer && this.models[answer.model.kind]?.bundle !== answer.bundle);
    if (isOther) await this.readService();
  },

  /** Reports items, reads the history again and asks anew. */
  async report(itemIds, recommendationId = null) {
    if (!(await report(itemIds, recommendationId))) return;
    await Promise.all([loadHistory(), this.refresh()]);
  },

  /** Draws what is about all lists anew. */
  listsChanged() {
    compare(this.columns);
    showWhy(this.columns);
  },

  forget() {
    for (const column of this.columns) column.forget();
  },

  openItem(itemId, recommendationId) {
    return openItem(this, itemId, recommendationId);
  },

  openDecision,

  showColumns() {
    const kinds = shownKinds(this.models);
    this.columns = kinds.map((kind) => this.columns.find((column) => column.kind === kind) ?? new Column(kind, this));
    $("lists").dataset.columns = kinds.length;
    clear($("lists"), kinds.length ? this.columns.map(({ element }) => element) : nothingLive());
  },

  /** Learns what is live and what can be filtered by. */
  async readService() {
    const version = await ask("GET", "version");
    const areOthers = this.isStarted && shapeOf(version.models) !== shapeOf(this.models);
    this.models = version.models;
    this.defaultKind = version.default;
    this.version = version.version;
    this.experiment = version.experiment;
    if (this.defaultKind) {
      this.catalogue = await ask("GET", "console/catalogue");
      $("catalogue-size").textContent = count(this.catalogue.num_items);
      $("search").placeholder = `Search ${plural(this.catalogue.num_items, "title")}`;
      showFilters(this.catalogue);
      offerQuickStarts(this);
    }
    showModels(this);
    showBundles();
    if (has("scenarios")) showScenarios((await ask("GET", "scenarios")).scenarios);
    if (!areOthers) return;
    this.columns = [];
    this.showColumns();
    await this.refresh();
  },

  /** After a swap: every list may be another. */
  async reloadService() {
    await this.readService();
    await this.refresh();
  },
};

const PROMISING = ["category", "type", "genre", "brand", "author", "artist", "price", "year"];

/** Names that shops like to show come first; the others stay in the catalogue's order. */
function byPromise(a, b) {
  const [left, right] = [a, b].map(({ name }) => PROMISING.indexOf(name.toLowerCase()));
  return (left < 0 ? PROMISING.length : left) - (right < 0 ? PROMISING.length : right);
}

/** What columns are made of: which models there are, and what they can do. */
const shapeOf = (models) => JSON.stringify(Object.entries(models).map(([kind, { modes }]) => [kind, modes]));

const nothingLive = () => h("p", { class: "card empty" }, "No bundle is live in the store. Run offline.reindex, then reload under Operations.");

function route() {
  const isOperations = location.hash === "#operations";
  $("view-recommend").hidden = isOperations;
  $("view-operations").hidden = !isOperations;
  for (const [id, isHere] of [["to-recommend", !isOperations], ["to-operations", isOperations]]) {
    if (isHere) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  document.title = isOperations ? "Operations · Hatstand" : "Hatstand";
  watchOperations(isOperations);
}

const THEMES = [["", "as the system has it"], ["light", "light"], ["dark", "dark"]];

function initTheme() {
  const button = $("theme-button");
  const show = () => {
    const theme = document.documentElement.dataset.theme ?? "";
    button.setAttribute("aria-label", `Theme: ${THEMES.find(([it]) => it === theme)[1]}`);
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    const at = THEMES.findIndex(([it]) => it === (document.documentElement.dataset.theme ?? ""));
    const [next] = THEMES[(at + 1) % THEMES.length];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    try {
      localStorage.setItem("hatstand.theme", next);
    } catch {
      // it holds until the page is left
    }
    show();
  });
  show();
}

async function begin() {
  initTheme();
  initVisitor(app);
  initControls(app);
  initFilters(app);
  initSearch(app);
  initOperations(app);
  addEventListener("hashchange", route);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view it is
    $("main").focus();
  });
  $("key-button").hidden = !wantsKey;
  $("key-button").addEventListener("click", async () => {
    if (await askForKey()) await start();
  });
  setInterval(() => document.hidden || location.hash === "#operations" || checkHealth(), HEALTH_MS);
  route();
  checkHealth();
  openUser(state.userId);
  await start();
}

async function start() {
  try {
    await app.readService();
    app.showColumns();
    app.isStarted = true;
    await Promise.all([loadHistory(), app.refresh()]);
  } catch (error) {
    toast(error.message, "error");
    const again = h("button", { type: "button", onclick: start }, "Try again");
    clear($("lists"), h("div", { class: "card empty", role: "alert" }, h("p", {}, error.message), again));
  }
}

begin();
