// Puts the parts together.

import { readAddress, writeAddress } from "./address.js";
import { ask, askForKey, has, wantsKey } from "./api.js";
import { alignRows, compare, initCompare } from "./compare.js";
import { initControls, showModels, showScenarios, shownKinds } from "./controls.js";
import { $, clear, h, toast } from "./dom.js";
import { specialAttributes } from "./fields.js";
import { count, plural } from "./format.js";
import { initFilters, showFilters } from "./filters.js";
import { initHistory } from "./history.js";
import { openItem } from "./item.js";
import { initKeys } from "./keys.js";
import { Column, announceLists } from "./lists.js";
import { checkHealth, initOperations, showBundles, showHealthOf, watchOperations } from "./operations.js";
import { openDecision } from "./record.js";
import { findSamples, initSamples } from "./samples.js";
import { showScenarioPage } from "./scenarios.js";
import { initSearch } from "./search.js";
import { keep, openUser, state } from "./state.js";
import { initTheme } from "./theme_button.js";
import { initQuickStarts, offerQuickStarts, startAnywhere } from "./quick_starts.js";
import { initVisitor, loadHistory, report, show } from "./visitor.js";
import { showWhy } from "./why.js";

const HEALTH_MS = 15_000;

const app = {
  models: {},
  defaultKind: null,
  version: "",
  experiment: null,
  catalogue: null,
  scenarios: [],
  columns: [],
  isStarted: false,

  /** Attributes worth a place in a list: two of words that tell kinds of things apart, and a number. */
  shownAttributes() {
    const attributes = this.catalogue?.attributes ?? [];
    const special = this.specialAttributes();
    const words = attributes.filter(({ name, kind, values }) => kind === "words" && values.length && !special.includes(name)).sort(byPromise);
    const numbers = attributes.filter(({ kind, smallest }) => kind === "number" && smallest !== null).sort(byPromise);
    return [...words.slice(0, 2), ...numbers.slice(0, 1)].map(({ name }) => name);
  },

  /** Pictures and currencies: no words of a line, but part of how an item is shown. */
  specialAttributes() {
    return specialAttributes(this.catalogue?.attributes.map(({ name }) => name) ?? []);
  },

  /** The scenario that made an answer, with its rules; undefined where there was none. */
  scenarioOf(answer) {
    return this.scenarios.find(({ name, version }) => name === answer.scenario?.name && version === answer.scenario.version);
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
  async report(itemIds, type, recommendationId = null) {
    if (!(await report(itemIds, type, recommendationId))) return;
    await Promise.all([loadHistory(), this.refresh()]);
  },

  showUser: show,

  /** Another visitor is looked at: the address names them. */
  visitorChanged() {
    if (readAddress().view === "recommend") writeAddress(place(), { isStep: true });
  },

  scenarioChanged() {
    writeAddress(place());
    return this.refresh();
  },

  /** Draws what is about all lists anew. */
  listsChanged() {
    alignRows(this.columns);
    compare(this.columns);
    this.showChosen();
  },

  /** The lists, or the heat maps: where there are none, the lists. */
  showChosen() {
    const hasMaps = this.columns.some((column) => column.answer?.items[0]?.reasons.length);
    const isWhy = hasMaps && state.shown === "why";
    document.querySelector('input[name="shown"][value="why"]').disabled = !hasMaps;
    for (const radio of document.getElementsByName("shown")) radio.checked = (radio.value === "why") === isWhy;
    $("lists").hidden = isWhy;
    $("why").hidden = !isWhy;
    if (isWhy) showWhy(this.columns); // it asks for more lists, so only where somebody looks
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
    if (has("scenarios")) await this.readScenarios();
    if (!areOthers) return;
    this.columns = [];
    this.showColumns();
    await this.refresh();
  },

  async readScenarios() {
    this.scenarios = (await ask("GET", "console/scenarios")).scenarios;
    $("to-scenarios").hidden = !this.scenarios.length;
    showScenarios(this.scenarios);
    showScenarioPage(this);
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

/** Whose lists are shown, for the address. */
const place = () => ({ user: state.who === "user" ? state.userId : null, scenario: state.scenario });

const VIEWS = { recommend: "Hatstand", scenarios: "Scenarios · Hatstand", operations: "Operations · Hatstand" };

/** Shows what the address names. */
function route() {
  const { view, user, scenario } = readAddress();
  for (const name of Object.keys(VIEWS)) {
    $(`view-${name}`).hidden = name !== view;
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  document.title = VIEWS[view];
  watchOperations(view === "operations");
  if (view !== "recommend" || !app.isStarted) return;
  const isOther = user !== null && (user !== state.userId || state.who !== "user");
  if (scenario !== null && scenario !== state.scenario) chooseScenario(scenario);
  else if (!isOther) app.showChosen();
  if (isOther) show(user);
  else writeAddress(place());
}

function chooseScenario(name) {
  state.scenario = app.scenarios.some((it) => it.name === name) ? name : "";
  keep();
  $("scenario").value = state.scenario;
  app.refresh();
}

async function begin() {
  const asked = readAddress();
  const isFirst = !state.recentUsers.length && asked.user === null;
  if (asked.user !== null) openUser(asked.user);
  if (asked.scenario !== null) state.scenario = asked.scenario;
  initTheme();
  initSamples(app);
  initQuickStarts();
  initVisitor(app);
  initHistory(app);
  initControls(app);
  initFilters(app);
  initSearch(app);
  initCompare(app);
  initKeys();
  initOperations(app);
  addEventListener("hashchange", route);
  initSkips();
  $("key-button").hidden = !wantsKey;
  $("key-button").addEventListener("click", async () => {
    if (await askForKey()) await start(isFirst);
  });
  document.addEventListener("reached", checkHealth);
  document.addEventListener("unreached", () => showHealthOf("unreachable"));
  setInterval(() => document.hidden || !$("view-operations").hidden || checkHealth(), HEALTH_MS);
  route();
  checkHealth();
  await start(isFirst);
}

/** The links that skip; the address says which view it is, so they are no addresses. */
function initSkips() {
  for (const [link, target] of [[document.querySelector(".skip"), "main"], [$("skip-to-lists"), "lists"]]) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const title = target === "lists" ? $("lists").querySelector('button.title[tabindex="0"]') : null;
      (title ?? $(target)).focus();
    });
  }
}

async function start(isFirst) {
  try {
    await app.readService();
    app.showColumns();
    app.isStarted = true;
    const sample = await findSamples();
    if (isFirst && sample) openUser(sample.user_id);
    if (readAddress().view === "recommend") writeAddress(place());
    await Promise.all([loadHistory(), app.refresh()]);
    if (isFirst && !sample) await startAnywhere(app);
  } catch (error) {
    toast(error.message, "error");
    const again = h("button", { type: "button", onclick: () => start(isFirst) }, "Try again");
    clear($("lists"), h("div", { class: "card empty", role: "alert" }, h("p", {}, error.message), again));
  }
}

begin();
