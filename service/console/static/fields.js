// What the fields of an item say: a line of facts, a price with its currency, a picture.

import { money, number, value } from "./format.js";

const PICTURES = ["image_url", "image", "picture_url", "picture", "thumbnail_url", "thumbnail"];
const CURRENCIES = ["currency", "price_currency"];
const PRICES = ["price", "list_price", "sale_price"];

/** The attributes of a catalogue that are shown by themselves and not as words: pictures and currencies. */
export const specialAttributes = (names) => names.filter((name) => PICTURES.includes(name) || CURRENCIES.includes(name));

/** Attributes in one line, such as "Headphones · Tessera · €119.99 · vintage 2019". */
export function facts(fields, names) {
  return names
    .filter((name) => fields[name] !== undefined)
    .map((name) => {
      if (PRICES.includes(name) && typeof fields[name] === "number") return price(name, fields);
      return typeof fields[name] === "string" || Array.isArray(fields[name]) ? value(fields[name]) : `${name.replaceAll("_", " ")} ${value(fields[name])}`;
    })
    .join(" · ");
}

/** A field as the details of an item show it. */
export function shownField(name, fields) {
  if (PRICES.includes(name) && typeof fields[name] === "number" && currencyOf(fields)) return price(name, fields);
  return value(fields[name]);
}

function price(name, fields) {
  const currency = currencyOf(fields);
  return currency ? money(fields[name], currency) : `${name.replaceAll("_", " ")} ${number(fields[name])}`;
}

const currencyOf = (fields) => CURRENCIES.map((name) => fields[name]).find((it) => typeof it === "string" && /^[A-Za-z]{3}$/.test(it));

/** The address of an item's picture, of https or of this service (the page's policy lets no other in); null if none. */
export function pictureOf(fields) {
  for (const name of PICTURES) {
    const text = Array.isArray(fields[name]) ? fields[name][0] : fields[name];
    if (typeof text !== "string" || !text || !URL.canParse(text, document.baseURI)) continue;
    const address = new URL(text, document.baseURI);
    if (address.protocol === "https:" || address.origin === location.origin) return address.href;
  }
  return null;
}
