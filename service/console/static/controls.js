// How the list is made: model, mode, number, diversity, reasons.

import { $, clear, h, later } from "./dom.js";
import { keep, state } from "./state.js";

const WAIT_MS = 180;
const NAMES = { hllm: "HLLM", hatllm: "HatLLM", blend: "Blend" };

export const nameOf = (kind) => NAMES[kind] ?? kind;

export function initControls(app) {
  const soon = later(() => app.refresh(), WAIT_MS);

  $("k").value = state.k;
  $("k").addEventListener("input", () => {
    const k = Number($("k").value);
    if (!Number.isInteger(k) || k < 1 || k > 50) return;
    state.k = k;
    changed(soon);
  });
  $("k").addEventListener("blur", () => {
    $("k").value = state.k;
  });

  $("diversity").value = state.diversity;
  $("diversity").addEventListener("input", () => {
    state.diversity = Number($("diversity").value);
    changed(soon);
  });

  $("scenario").addEventListener("change", () => {
    state.scenario = $("scenario").value;
    changed(() => app.scenarioChanged());
  });

  for (const [id, name] of [["explain", "explain"], ["exclude-seen", "excludeSeen"]]) {
    $(id).checked = state[name];
    $(id).addEventListener("change", () => {
      state[name] = $(id).checked;
      changed(() => app.refresh());
    });
  }
  for (const radio of document.getElementsByName("shown")) {
    radio.checked = radio.value === state.shown;
    radio.addEventListener("change", () => {
      state.shown = radio.value;
      keep();
      app.showChosen();
    });
  }
  // On a phone the controls wait behind a line; with room for them they are always there.
  const isWide = matchMedia("(min-width: 760px)");
  const fold = () => {
    for (const id of ["controls", "history"]) $(id).open = isWide.matches;
  };
  isWide.addEventListener("change", fold);
  fold();
  showValues();
}

function changed(then) {
  keep();
  showValues();
  then();
}

function showValues() {
  $("diversity-value").value = state.diversity.toFixed(2);
  const conditions = Object.keys(state.filter).length + (state.excluded.length ? 1 : 0);
  $("controls-summary").textContent = [`${state.k} items`, state.diversity ? `diversity ${state.diversity}` : "", conditions ? `filtered` : ""]
    .filter(Boolean)
    .join(" · ");
}

/** The choice between the scenarios of the service; nothing to choose where there are none. */
export function showScenarios(scenarios) {
  if (!scenarios.some(({ name }) => name === state.scenario)) state.scenario = "";
  $("scenario-field").hidden = !scenarios.length;
  const options = scenarios.map(({ name, description }) => h("option", { value: name, title: description || null }, name));
  clear($("scenario"), h("option", { value: "" }, "none"), options);
  $("scenario").value = state.scenario;
}

/** Which kinds of models are shown: all that are live, or the chosen one. */
export function shownKinds(models) {
  const kinds = Object.keys(models);
  return kinds.includes(state.view) ? [state.view] : kinds;
}

/** The choice between the live models; nothing to choose from one. */
export function showModels(app) {
  const kinds = Object.keys(app.models);
  $("models-field").hidden = kinds.length < 2;
  const choices = [["both", kinds.length === 2 ? "Side by side" : "All"], ...kinds.map((kind) => [kind, nameOf(kind)])];
  const chosen = kinds.includes(state.view) ? state.view : "both";
  clear(
    $("models"),
    choices.map(([view, text]) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "model",
          value: view,
          checked: view === chosen,
          onchange: () => {
            state.view = view;
            keep();
            app.showColumns();
            app.refresh();
          },
        }),
        h("span", {}, text),
      ),
    ),
  );
}

/** Says what is on; filters call it when they change. */
export const controlsChanged = showValues;
