// A client of a Hatstand service for a page (or Node 18 and later): recommendations, events, merging at sign-in.
// One file, no dependencies, no build step: <script type="module"> import { Hatstand } from "./hatstand.js"; </script>

const RETRIED = new Set([429, 502, 503]);
const MAX_BATCH = 200;
// A browser lets requests that outlive their page hold 64 KiB together.
const MAX_KEEPALIVE_BYTES = 60_000;

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

/** An id that nobody else has; randomUUID is missing on pages without TLS. */
export const newId = () =>
  globalThis.crypto?.randomUUID?.() ??
  Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, "0")).join("");

/** The id of this browser's visitor, kept in its storage; `forget` begins a new one, as after a sign-in. */
export function sessionId({ storage = globalThis.localStorage, forget = false } = {}) {
  const known = forget ? null : storage.getItem("hatstand-session");
  const id = known ?? newId();
  if (id !== known) storage.setItem("hatstand-session", id);
  return id;
}

/** The service refused: `status`, `code` (a stable word), `detail`, `requestId`, `retryAfterSeconds`. */
export class HatstandError extends Error {
  constructor({ status = 0, code = `http_${status}`, detail = "no problem document", errors = [], requestId, retryAfterSeconds }) {
    super(`${status} ${code}: ${detail}`);
    Object.assign(this, { name: "HatstandError", status, code, detail, errors, requestId, retryAfterSeconds });
  }
}

export class Hatstand {
  #url;
  #options;
  #waiting = [];
  #timer = null;
  #sending = null;

  /**
   * @param {string} url Of the service, such as "https://recommend.example.com".
   * @param {object} options
   * @param {string} [options.apiKey] With the scopes recommend and events alone: everybody can read it in a page.
   * @param {number} [options.timeoutMs] For one attempt.
   * @param {number} [options.maxAttempts] How often a request is sent when the service cannot answer now.
   * @param {number} [options.flushMs] So long an event waits at most for others to be reported with it.
   * @param {(events: object[], reason: string) => void} [options.onUndelivered] Is told of events that are given up.
   */
  constructor(url, { apiKey, timeoutMs = 5_000, maxAttempts = 4, flushMs = 1_000, onUndelivered } = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#options = { apiKey, timeoutMs, maxAttempts, flushMs, onUndelivered: onUndelivered ?? console.error };
    // The last moment at which a page may send something, on phones too.
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden && this.#sendBeforeTheEnd());
    globalThis.addEventListener?.("pagehide", () => this.#sendBeforeTheEnd());
  }

  /** Recommends items: `{user_id | session_id | history, k, filter, ...}`, as POST /recommend takes them. */
  recommend(options) {
    return this.#ask("POST", "/recommend", options);
  }

  similarItems(itemId, { k = 10 } = {}) {
    return this.#ask("GET", `/items/${segment(itemId)}/similar?k=${k}`);
  }

  searchItems(query, { limit = 20 } = {}) {
    return this.#ask("GET", `/items?query=${encodeURIComponent(query)}&limit=${limit}`);
  }

  getItem(itemId) {
    return this.#ask("GET", `/items/${segment(itemId)}`);
  }

  /** Moves what a visitor did before signing in to the user; reports what waits first. */
  async mergeSession(session, userId) {
    await this.flush();
    return this.#ask("POST", `/users/${segment(userId)}/merge`, { session_id: session });
  }

  /** Reports 1 to 1,000 events now; they are stored when the promise is kept. */
  reportEvents(events) {
    return this.#ask("POST", "/events", { events: events.map(complete) });
  }

  /** Reports an event soon, together with others: `{item_id, user_id | session_id, type, recommendation_id, ...}`. */
  track(event) {
    this.#waiting.push(complete(event));
    if (this.#waiting.length >= MAX_BATCH) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), this.#options.flushMs);
  }

  /** Reports what waits. Events that cannot be delivered now go on waiting; refused ones are told and dropped. */
  flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#sending ??= this.#sendAll().finally(() => (this.#sending = null));
    return this.#sending;
  }

  async #sendAll() {
    while (this.#waiting.length) {
      const batch = this.#waiting.slice(0, MAX_BATCH);
      try {
        const answer = await this.#ask("POST", "/events", { events: batch });
        for (const { index, code, detail } of answer.rejected)
          this.#options.onUndelivered([batch[index]], `${code}: ${detail}`);
      } catch (error) {
        if (mayPass(error)) {
          this.#timer ??= setTimeout(() => void this.flush(), 10 * this.#options.flushMs);
          return;
        }
        if (error.code === "no_event_accepted")
          error.errors.forEach(({ code, detail }, index) => this.#options.onUndelivered([batch[index]], `${code}: ${detail}`));
        else this.#options.onUndelivered(batch, error.message);
      }
      const done = new Set(batch);
      this.#waiting = this.#waiting.filter((event) => !done.has(event));
    }
  }

  // The answer may never be seen; if the page lives on, the same events are sent again, and count once.
  #sendBeforeTheEnd() {
    let events = this.#waiting.slice(0, 1_000);
    while (new TextEncoder().encode(JSON.stringify(events)).length > MAX_KEEPALIVE_BYTES)
      events = events.slice(0, Math.floor(events.length / 2));
    if (events.length) this.#fetch("POST", "/events", { events }, { keepalive: true }).catch(() => {});
  }

  async #ask(method, path, body) {
    const requestId = newId();
    for (let attempt = 1; ; attempt++) {
      try {
        return await read(await this.#fetch(method, path, body, { requestId }));
      } catch (reason) {
        const error = reason instanceof HatstandError ? reason : noAnswer(reason, requestId);
        if (!mayPass(error) || attempt >= this.#options.maxAttempts || error.retryAfterSeconds > 30) throw error;
        await sleep((error.retryAfterSeconds ?? 0.2 * 2 ** attempt) * 1_000 + Math.random() * 500);
      }
    }
  }

  #fetch(method, path, body, { requestId = newId(), keepalive = false } = {}) {
    const headers = { accept: "application/json", "x-request-id": requestId };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (this.#options.apiKey) headers.authorization = `Bearer ${this.#options.apiKey}`;
    const signal = keepalive ? undefined : AbortSignal.timeout(this.#options.timeoutMs);
    return fetch(this.#url + path, { method, headers, body: JSON.stringify(body), keepalive, signal, credentials: "omit" });
  }
}

const complete = (event) => ({ event_id: newId(), timestamp: Math.floor(Date.now() / 1_000), ...event });

function segment(id) {
  // A browser takes both for steps to other paths, whatever they are written as.
  if (id === "." || id === "..") throw new HatstandError({ code: "invalid_id", detail: `${id} cannot be a path` });
  return encodeURIComponent(id);
}

const mayPass = (error) => error.status === 0 || RETRIED.has(error.status);

const noAnswer = (reason, requestId) => new HatstandError({ code: "no_answer", detail: String(reason), requestId });

async function read(response) {
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  throw new HatstandError({
    status: response.status,
    code: problem.code,
    detail: problem.detail,
    errors: problem.errors,
    requestId: problem.request_id ?? response.headers.get("x-request-id"),
    retryAfterSeconds: Number.isFinite(seconds) ? seconds : undefined,
  });
}
