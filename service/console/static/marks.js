// What shaped a list beside the model: pins, boosts, caps, and how many items were left out.

import { mark } from "./items.js";
import { count } from "./format.js";

const LEFT_OUT = { seen: "seen", filter: "filtered", excluded: "excluded", hidden: "hidden", cap: "beyond a cap" };

/** Badges such as "1 pinned", "3 boosted", "2 per brand", "filtered: 59". */
export function marksOf(answer, app) {
  const numPinned = answer.items.filter((item) => item.pinned).length;
  const numBoosted = answer.items.filter((item) => item.boosted).length;
  const caps = Object.entries(app.scenarioOf(answer)?.rules?.max_per ?? {});
  const leftOut = Object.entries(answer.left_out ?? {}).filter(([, amount]) => amount > 0);
  return [
    numPinned ? mark(`${numPinned} pinned`) : null,
    numBoosted ? mark(`${numBoosted} boosted`) : null,
    ...caps.map(([name, amount]) => mark(`${amount} per ${name.replaceAll("_", " ")}`)),
    ...leftOut.map(([reason, amount]) => mark(`${LEFT_OUT[reason] ?? reason.replaceAll("_", " ")}: ${count(amount)}`)),
  ];
}
