// Numbers and times as they are read.

// "min2": four digits stand together, as they may be a year
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 2, useGrouping: "min2" });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, maximumFractionDigits: 2, roundingPriority: "lessPrecision" });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const number = (value) => plain.format(value);
export const rate = (value) => (value && value < 0.01 ? "<0.01" : short.format(value));
export const money = (value, currency) => new Intl.NumberFormat("en", { style: "currency", currency }).format(value);
export const count = (value) => (value < 10_000 ? plain.format(value) : compact.format(value));
export const percent = (share) => `${share > 0 && share < 0.01 ? "<1" : Math.round(share * 100)} %`;

/** Seconds in the unit that makes them readable; "–" where nothing was measured. */
export function seconds(value) {
  if (value === null || Number.isNaN(value)) return "–";
  return value < 1 ? `${short.format(value * 1_000)} ms` : `${short.format(value)} s`;
}

export const milliseconds = (value) => seconds(value / 1_000);

/** How long ago a time in seconds since 1970 was. */
export function ago(timestamp) {
  const past = Math.max(0, Date.now() / 1_000 - timestamp);
  for (const [unit, size] of [["d", 86_400], ["h", 3_600], ["min", 60]]) {
    if (past >= size) return `${Math.floor(past / size)} ${unit} ago`;
  }
  return "just now";
}

export const plural = (amount, word) => `${count(amount)} ${word}${amount === 1 ? "" : "s"}`;

/** A value of an attribute, whatever it is. */
export function value(it) {
  if (typeof it === "number") return number(it);
  if (typeof it === "boolean") return it ? "yes" : "no";
  if (Array.isArray(it)) return it.map(value).join(", ");
  return typeof it === "object" && it !== null ? JSON.stringify(it) : String(it);
}
