// How an answer came about: where its time went, what made it, and the request to send again.

import { has } from "./api.js";
import { nameOf } from "./controls.js";
import { h } from "./dom.js";
import { milliseconds } from "./format.js";

const STEPS = ["history", "queue", "encode", "search", "rank"];

/** What stands behind "How this was answered". */
export function howAnswered(answer, body, app) {
  const facts = [
    ["recommendation", answer.recommendation_id],
    ["source", answer.source],
    ["model", answer.model.version],
    ["bundle", answer.bundle],
    ["mode", answer.mode],
    ...(answer.scenario ? [["scenario", `${answer.scenario.name}, version ${answer.scenario.version}`]] : []),
    ...(answer.experiment ? [["experiment", `${answer.experiment.name}: ${answer.experiment.arm}`]] : []),
  ];
  return [
    ...timeBar(answer.timing_ms),
    h("dl", { class: "facts" }, facts.map(([name, it]) => [h("dt", {}, name), h("dd", {}, it)])),
    h("p", { class: "meta" }, "The request"),
    h("pre", { tabindex: "0", role: "region", "aria-label": `The request to ${nameOf(answer.model.kind)}` }, JSON.stringify(body, null, 1)),
    has("decisions")
      ? h("button", { type: "button", onclick: () => app.openDecision(answer.recommendation_id) }, "Decision record")
      : null,
  ];
}

/** A bar of the time of each step, and its legend. */
export function timeBar(timing) {
  const total = Math.max(timing.total, 0.001);
  const steps = STEPS.map((step) => [step, timing[step] ?? 0]);
  const rest = total - steps.reduce((sum, [, it]) => sum + it, 0);
  if (rest > 0) steps.push(["other", rest]);
  return [
    h("div", { class: "steps", "aria-hidden": "true" }, steps.map(([step, it]) => h("span", { class: `step step-${step}`, style: { "--share": it / total } }))),
    h(
      "ul",
      { class: "step-names" },
      steps.map(([step, it]) => h("li", {}, h("span", { class: `key step-${step}`, "aria-hidden": "true" }), `${step} ${milliseconds(it)}`)),
    ),
  ];
}
