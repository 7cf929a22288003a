// What an operator looks at: health, bundles, queue, latency; and the two buttons that change something.

import { ask, askText, has, inPath } from "./api.js";
import { nameOf } from "./controls.js";
import { $, clear, confirmed, h, toast } from "./dom.js";
import { number, plural } from "./format.js";
import { total, valuesOf } from "./metrics.js";
import { makeNumbers, readNumbers } from "./numbers.js";
import { learnTitles, titleOf } from "./titles.js";
import { EVERY_MS, forgetReadings, latest, makeTiles, makeWindowChoice, noteMetrics } from "./traffic.js";

const HEALTH_WORDS = { ready: "ready", degraded: "degraded", not_ready: "not ready", unreachable: "unreachable" };

let app = null;
let timer = 0;

export function initOperations(theApp) {
  app = theApp;
  clear(
    $("view-operations"),
    h("h1", { class: "visually-hidden" }, "Operations"),
    h("div", { class: "window" }, makeWindowChoice(), h("p", { id: "window-note", class: "note" })),
    h("div", { class: "tiles" }, makeTiles()),
    h(
      "div",
      { class: "boards" },
      makeNumbers(app),
      board("outcomes", "What lists lead to"),
      board("bundles", "Live bundles", h("button", { id: "reload", type: "button", onclick: reload }, "Reload")),
      board("health-board", "Health"),
      board("stages", "Where the time goes"),
      board("routes", "Requests"),
      has("hide") ? board("hidden-items", "Hidden items") : null,
    ),
  );
}

function board(id, title, ...more) {
  return h("section", { class: "card board", "aria-labelledby": `${id}-title` }, h("header", {}, h("h2", { id: `${id}-title` }, title), more), h("div", { id }));
}

/** Begins or stops reading; it reads only while somebody looks. */
export function watchOperations(isShown) {
  clearInterval(timer);
  timer = 0;
  if (!isShown) return;
  forgetReadings();
  readNumbers({ isForced: true });
  read();
  showBundles();
  showHidden();
  timer = setInterval(() => document.hidden || read(), EVERY_MS);
}

/** Asks whether the service is well; the word in the bar follows. */
export async function checkHealth() {
  let status = "unreachable";
  let checks = {};
  let refused = {};
  try {
    const answer = await askText("readyz");
    const body = JSON.parse(answer.text);
    status = body.status ?? (answer.status === 200 ? "ready" : "not_ready");
    checks = body.checks ?? {};
    refused = body.refused ?? {};
  } catch {
    // unreachable it is
  }
  showHealthOf(status);
  return { status, checks, refused };
}

/** The word in the bar. */
export function showHealthOf(status) {
  $("health").dataset.status = status;
  $("health-word").textContent = HEALTH_WORDS[status] ?? status;
}

async function read() {
  const [health, answer] = await Promise.all([checkHealth(), askText("metrics").catch(() => null)]);
  showHealth(health);
  if (!answer || answer.status !== 200) {
    $("window-note").textContent = answer ? `The metrics answered ${answer.status}.` : `The service does not answer.${latest() ? " The numbers below are from before." : ""}`;
    return;
  }
  const isFirst = latest() === null;
  noteMetrics(answer.text);
  readNumbers();
  const known = Object.values(app.models).map(({ bundle }) => bundle);
  const live = valuesOf(latest(), "hatstand_bundle_info", "bundle");
  // The service swaps by itself when a bundle is published.
  if (live.length !== known.length || live.some((bundle) => !known.includes(bundle))) await app.readService().catch(() => {});
  else if (isFirst) showBundles(); // now with what was measured of them
}

function showHealth({ status, checks, refused }) {
  const row = (name, text) =>
    h(
      "li",
      { class: `check ${text === "ok" ? "fine" : "broken"}` },
      h("span", { class: "mark", "aria-hidden": "true" }, text === "ok" ? "✓" : "!"),
      h("span", { class: "check-name" }, name),
      h("span", { class: "meta" }, text),
    );
  const rows = [
    ...Object.entries(checks).map(([name, text]) => row(name.replaceAll("_", " "), text)),
    ...Object.entries(refused).map(([kind, it]) => row(`${nameOf(kind)} refused`, `${it.bundle}: ${it.reason}`)),
  ];
  clear($("health-board"), h("p", { class: "big-status", "data-status": status }, HEALTH_WORDS[status] ?? status), h("ul", { class: "checks" }, rows));
}

/** The live bundles, as /version names them and the metrics measure them. */
export async function showBundles() {
  if ($("view-operations").hidden) return;
  const kinds = Object.entries(app.models);
  const recall = (kind) => (latest() ? total(latest(), "hatstand_bundle_recall_ratio", { kind }) : null);
  const row = ([kind, it]) =>
    h(
      "li",
      { class: `bundle kind-${kind}` },
      h("h3", {}, h("span", { class: "swatch", "aria-hidden": "true" }), nameOf(kind), kind === app.defaultKind ? h("span", { class: "badge good" }, "default") : null),
      h("p", { class: "ids" }, h("code", {}, it.bundle)),
      h(
        "p",
        { class: "meta" },
        [`model ${it.model}`, plural(it.items, "item"), it.modes.join(", "), recall(kind) === null ? null : `index recall ${number(recall(kind))}`].filter(Boolean).join(" · "),
      ),
      h("button", { class: "danger", type: "button", "aria-label": `Roll back ${nameOf(kind)}`, onclick: () => rollBack(kind) }, "Roll back"),
    );
  clear($("bundles"), kinds.length ? h("ul", { class: "bundles" }, kinds.map(row)) : h("p", { class: "note" }, "No bundle is live: run offline.reindex."), versionLine());
}

const versionLine = () =>
  h("p", { class: "meta" }, `Hatstand ${app.version}`, app.experiment ? ` · experiment ${app.experiment.name}: ${Object.entries(app.experiment.arms).map(([arm, it]) => `${arm} ${it}`).join(", ")}` : "");

async function reload() {
  const yes = await confirmed({ title: "Reload the live bundles?", text: "The service looks at the store's live pointer, loads and verifies what is new beside what answers now, and switches between two requests.", yes: "Reload" });
  if (yes) await change("admin/reload");
}

async function rollBack(kind) {
  const text = `The bundle that was live before ${app.models[kind].bundle} answers again, in this service and, by the store's pointer, in every other.`;
  if (await confirmed({ title: `Roll back ${nameOf(kind)}?`, text, yes: "Roll back", isDangerous: true })) await change("admin/rollback", { model: kind });
}

async function change(path, body) {
  $("reload").disabled = true;
  try {
    const answer = await ask("POST", path, { body });
    const changed = answer.changed ?? [];
    toast(changed.length ? `Now live: ${changed.map((kind) => answer.bundles?.[kind] ?? kind).join(", ")}` : "Nothing changed: the live bundles are loaded already.");
    await app.reloadService();
  } catch (error) {
    toast(error.message, "error");
  } finally {
    $("reload").disabled = false;
  }
}

async function showHidden() {
  const place = $("hidden-items");
  if (!place) return;
  try {
    const answer = await ask("GET", "admin/items/hidden");
    const itemIds = answer.items.map((it) => it.item_id);
    await learnTitles(itemIds);
    const row = (itemId) =>
      h("li", { class: "row-item" }, h("span", { class: "title" }, titleOf(itemId)), h("button", { class: "small", type: "button", "aria-label": `Show ${titleOf(itemId)} again`, onclick: () => showAgain(itemId) }, "Show again"));
    const numMore = answer.total - itemIds.length;
    clear(
      place,
      itemIds.length ? h("ul", { class: "rows" }, itemIds.map(row)) : h("p", { class: "note" }, "None. The dialog of an item hides it."),
      numMore > 0 ? h("p", { class: "note" }, `${plural(numMore, "item")} more.`) : null,
    );
  } catch (error) {
    clear(place, h("p", { class: "note" }, error.message));
  }
}

async function showAgain(itemId) {
  try {
    await ask("POST", `admin/items/${inPath(itemId)}/show`);
    toast(`Shown again: ${titleOf(itemId)}`);
  } catch (error) {
    toast(`Still hidden: ${error.message}`, "error");
  }
  await showHidden();
}
