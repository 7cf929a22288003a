// Prometheus' text, read; and what happened between two readings of it.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** All samples by name: [{labels, value}]. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, (_, it) => (it === "n" ? "\n" : it));
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    if (!samples.has(match[1])) samples.set(match[1], []);
    samples.get(match[1]).push({ labels, value });
  }
  return samples;
}

const fits = (labels, wanted) => Object.entries(wanted).every(([name, value]) => labels[name] === value);

/** The sum of all series that have these labels; null where there is none. */
export function total(samples, name, wanted = {}) {
  const found = (samples.get(name) ?? []).filter(({ labels }) => fits(labels, wanted));
  return found.length ? found.reduce((sum, { value }) => sum + value, 0) : null;
}

/** How much a counter grew; after a restart it grew from 0. */
export function growth(before, after, name, wanted = {}) {
  const now = total(after, name, wanted) ?? 0;
  const then = before ? (total(before, name, wanted) ?? 0) : 0;
  return now >= then ? now - then : now;
}

/** The values of a label. */
export function valuesOf(samples, name, label) {
  return [...new Set((samples.get(name) ?? []).map(({ labels }) => labels[label]).filter((it) => it !== undefined))];
}

/** What a histogram took in between two readings: {bounds, counts (per bucket), count, sum}. */
export function observed(before, after, name, wanted = {}) {
  const bounds = [...new Set((samples(after, name)).map(({ labels }) => labels.le))].map((le) => [le, le === "+Inf" ? Infinity : Number(le)]);
  bounds.sort((a, b) => a[1] - b[1]);
  const cumulative = bounds.map(([le]) => growth(before, after, `${name}_bucket`, { ...wanted, le }));
  return {
    bounds: bounds.map(([, bound]) => bound),
    counts: cumulative.map((value, at) => Math.max(0, value - (at ? cumulative[at - 1] : 0))),
    count: growth(before, after, `${name}_count`, wanted),
    sum: growth(before, after, `${name}_sum`, wanted),
  };
}

const samples = (reading, name) => reading.get(`${name}_bucket`) ?? [];

/** A quantile, in the histogram's unit, straight within its bucket as Prometheus does it; null for an empty one. */
export function quantile({ bounds, counts }, share) {
  const all = counts.reduce((sum, it) => sum + it, 0);
  if (!all) return null;
  let rank = share * all;
  for (let at = 0; at < counts.length; at++) {
    if (rank > counts[at]) {
      rank -= counts[at];
      continue;
    }
    const low = at ? bounds[at - 1] : 0;
    return Number.isFinite(bounds[at]) ? low + ((bounds[at] - low) * rank) / counts[at] : low;
  }
  return bounds[bounds.length - 2] ?? null;
}
