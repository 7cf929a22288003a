// Where a list comes from, in words: what is ordinary is not called a failure.

const NAMES = {
  model: "model",
  "fallback:retrieve": "retrieved, not generated",
  "fallback:last_embedding": "last known embedding",
  "fallback:similar_items": "similar items",
  "fallback:segment_popular": "popular in the segment",
  "fallback:popular": "popular items",
};
const POPULAR = new Set(["fallback:segment_popular", "fallback:popular"]);

export const sourceName = (answer) => NAMES[answer.source] ?? answer.source;

/** Popular items for somebody of whom nothing is known are what is meant to be; anything else beside the model is not. */
export function isOrdinary(answer) {
  return POPULAR.has(answer.source) && answer.history_length === 0 && !answer.warnings.some((it) => !it.startsWith("unknown_history_items"));
}

export function sourceLook(answer) {
  if (answer.source === "model") return "good";
  return isOrdinary(answer) ? "" : "fair";
}

/** Why a list may be a fallback without anything having failed, as hatstand_fallbacks_total names it. */
export const ORDINARY_REASON = "no_known_history";
