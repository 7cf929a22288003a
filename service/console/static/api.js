// The HTTP API as any other client sees it: same origin, JSON, problem documents, a key where one is wanted.

import { $, answerOf } from "./dom.js";

const KEY = "hatstand.key";
const TIMEOUT_MS = 30_000;

let key = restoredKey();
let asking = null;
let isDeclined = false;
let wasReached = true;

/** What the service answered instead of what was asked for. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `the service answered ${status}`);
    this.status = status;
    this.code = body.code || "unknown";
    this.requestId = body.request_id || null;
  }
}

export const wantsKey = document.body.dataset.wantsKey === "yes";
const features = new Set((document.body.dataset.features || "").split(" ").filter(Boolean));
export const has = (feature) => features.has(feature);

/** Asks for JSON. Throws a Problem, or an AbortError where `signal` said so. */
export async function ask(method, path, { body, signal, quietly } = {}) {
  if (wantsKey && !key && !quietly && !isDeclined) await askForKey();
  const response = await send(method, path, { body, signal });
  if (response.status === 401 && key && !quietly && !isDeclined) {
    if (await askForKey("This service does not know that key.")) return ask(method, path, { body, signal });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

/** Asks for text, whatever the status. */
export async function askText(path) {
  const response = await send("GET", path, {});
  return { status: response.status, text: await response.text() };
}

async function send(method, path, { body, signal }) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  const limits = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
  try {
    const response = await fetch(new URL(path, document.baseURI), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any(limits),
      cache: "no-store",
    });
    tellWhetherReached(true);
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tellWhetherReached(false);
    throw new Problem(0, { code: "unreachable", detail: error.name === "TimeoutError" ? "no answer within 30 s" : "the service does not answer" });
  }
}

/** Tells the page when the service stops answering, and when it answers again: no part may say "ready" meanwhile. */
function tellWhetherReached(isReached) {
  if (isReached === wasReached) return;
  wasReached = isReached;
  document.dispatchEvent(new Event(isReached ? "reached" : "unreached"));
}

/** An id as a part of a path. Browsers take a part that is nothing but dots for another folder, however it is written. */
export function inPath(id) {
  if (id === "." || id === "..") throw new Problem(0, { code: "not_a_path", detail: `a browser cannot ask for the id “${id}”` });
  return encodeURIComponent(id);
}

function restoredKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** Keeps the key for this tab; where storage is off, until the page is left. */
function keepKey(newKey) {
  key = newKey;
  try {
    if (newKey) sessionStorage.setItem(KEY, newKey);
    else sessionStorage.removeItem(KEY);
  } catch {
    // in memory it is
  }
}

/** Opens the dialog for a key, once however many requests want one; resolves to whether there is a new one. */
export function askForKey(problem = "") {
  asking ??= (async () => {
    $("key-problem").textContent = problem;
    $("key-problem").hidden = !(problem && key);
    $("key").value = "";
    const answer = await answerOf($("key-dialog"));
    const typed = $("key").value.trim();
    $("key").value = "";
    if (answer === "forget") keepKey(null);
    // Whoever closes the dialog is not asked again by every request; the button in the bar opens it.
    isDeclined = answer !== "use" || !typed;
    if (!isDeclined) keepKey(typed);
    return !isDeclined;
  })().finally(() => {
    asking = null;
  });
  return asking;
}

/** Whether a request was given up because a newer one took its place. */
export const isAborted = (error) => error instanceof DOMException && error.name === "AbortError";
