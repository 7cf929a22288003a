// What is known of items: learnt from every answer, asked for where it is missing.

import { ask, inPath } from "./api.js";

const MAX_KNOWN = 3_000;
const MAX_ASKED = 40;
const known = new Map();

export function learn(itemId, fields) {
  known.delete(itemId);
  known.set(itemId, { ...known.get(itemId), ...fields });
  if (known.size > MAX_KNOWN) known.delete(known.keys().next().value);
}

export const titleOf = (itemId) => known.get(itemId)?.title ?? itemId;

/** Asks for the titles that are missing; an item that the catalogue does not have keeps its id for a title. */
export async function learnTitles(itemIds) {
  const missing = [...new Set(itemIds)].filter((itemId) => !known.has(itemId)).slice(0, MAX_ASKED);
  await Promise.all(
    missing.map((itemId) =>
      ask("GET", `items/${inPath(itemId)}`, { quietly: true })
        .then((item) => learn(itemId, item.fields))
        .catch(() => learn(itemId, {})),
    ),
  );
}
