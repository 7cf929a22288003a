// Elements without HTML: whatever is shown goes in as text, so a title can never become markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "tabIndex", "selected"]);
const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element. `on…` are listeners, `style` an object of custom properties, children text or nodes (nothing for null). */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, it] of Object.entries(value)) element.style.setProperty(key, String(it));
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function clear(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Calls `work` once nothing has asked for it for a while. */
export function later(work, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), milliseconds);
  };
}

/** Says something to those who do not see the screen. */
export function announce(text) {
  $("announce").textContent = text;
}

/** A message that goes away by itself; `kind` is "info" or "error". */
export function toast(text, kind = "info") {
  const close = h("button", { class: "quiet icon", type: "button", "aria-label": "Dismiss", onclick: () => it.remove() }, "×");
  const it = h("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" }, h("p", {}, text), close);
  const toasts = $("toasts");
  while (toasts.children.length >= 3) toasts.firstChild.remove();
  toasts.append(it);
  setTimeout(() => it.remove(), kind === "error" ? 12_000 : 5_000);
}

/** Asks before something is done; resolves to whether it is to be. */
export function confirmed({ title, text, yes, isDangerous = false }) {
  const dialog = $("confirm-dialog");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("confirm-yes").className = isDangerous ? "danger" : "primary";
  return answerOf(dialog).then((answer) => answer === "yes");
}

/** Opens a dialog, and resolves to the value of the button that closed it ("" for Escape). */
export function answerOf(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
