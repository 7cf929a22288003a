// A line that says how a number went.

import { svg } from "./dom.js";

const WIDTH = 160;
const HEIGHT = 36;

/** A sparkline of values, null where there was none; decoration, the number beside it says what matters. */
export function sparkline(values, slots) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known, 1e-9);
  const x = (at) => ((slots - values.length + at) / Math.max(slots - 1, 1)) * WIDTH;
  const y = (value) => HEIGHT - 2 - (value / most) * (HEIGHT - 6);
  const runs = [];
  let run = [];
  values.forEach((value, at) => {
    if (value === null) {
      if (run.length) runs.push(run);
      run = [];
    } else run.push([x(at), y(value)]);
  });
  if (run.length) runs.push(run);
  const points = (it) => it.map(([left, top]) => `${left.toFixed(1)},${top.toFixed(1)}`).join(" ");
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    runs.map((it) => [
      svg("polygon", { points: `${it[0][0].toFixed(1)},${HEIGHT - 1} ${points(it)} ${it.at(-1)[0].toFixed(1)},${HEIGHT - 1}` }),
      svg("polyline", { points: points(it) }),
    ]),
  );
}
