// Who is looked at: a user or a session with a stored history, or a history that travels with the request.

import { ask, has, inPath, isAborted } from "./api.js";
import { $, clear, confirmed, h, toast } from "./dom.js";
import { ago, count, plural } from "./format.js";
import { showQuickStarts } from "./quick_starts.js";
import { addToHistory, keep, newSessionId, newUserId, openUser, randomWord, state } from "./state.js";
import { learnTitles, titleOf } from "./titles.js";

const MAX_SHOWN = 40;
const NOTES = {
  user: "Nothing is known of this user yet.",
  session: "A visitor who is not known yet: events stay with the session until it is merged into a user.",
  history: "The history is in each request, and the service keeps none of it.",
};

/** The history as the page knows it, oldest first: {item_id, type, timestamp}. */
export let history = [];

let app = null;
let reported = [];
let mayRead = true;
let token = null;

export function initVisitor(theApp) {
  app = theApp;
  if (state.who === "session" && !has("sessions")) state.who = "user";
  for (const radio of radios()) {
    radio.checked = radio.value === state.who;
    radio.closest("label").hidden = radio.value === "session" && !has("sessions");
    radio.addEventListener("change", () => open(radio.value));
  }
  $("user-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const userId = $("user-id").value.trim();
    if (!userId) return;
    openUser(userId);
    open("user");
  });
  $("new-user").addEventListener("click", () => {
    openUser(newUserId());
    open("user");
  });
}

const radios = () => document.getElementsByName("who");
const isKept = () => state.who !== "history";

/** Whose history is stored: the name of the field, and the id. */
const owner = () => (state.who === "session" ? ["session_id", state.sessionId] : ["user_id", state.userId]);
const ownerPath = () => (state.who === "session" ? `sessions/${inPath(state.sessionId)}` : `users/${inPath(state.userId)}`);
const whom = () => (state.who === "session" ? "this session" : "this user");

/** What a request says of the visitor. */
export function inRequest() {
  if (!isKept()) return { history: state.history.map(({ item_id, timestamp }) => ({ item_id, timestamp })) };
  const [field, id] = owner();
  return { [field]: id, ...(token ? { min_event_token: token } : {}) };
}

/** What a request for a later page says: whose list it goes on with. */
export function inPageRequest() {
  if (!isKept()) return {};
  const [field, id] = owner();
  return { [field]: id };
}

/** Looks at another visitor: nothing of the one before is shown. */
async function open(who = state.who) {
  state.who = who;
  keep();
  for (const radio of radios()) radio.checked = radio.value === who;
  reported = [];
  token = null;
  app.forget();
  await loadHistory();
  await app.refresh();
}

/** Reads the history, from the service or, where the key may not, from what this page has reported. */
export async function loadHistory() {
  const path = ownerPath();
  if (!isKept()) history = state.history.map((entry) => ({ type: "click", ...entry }));
  else if (mayRead) {
    try {
      const answer = await ask("GET", path);
      if (path !== ownerPath() || !isKept()) return;
      history = answer.history;
    } catch (error) {
      if (isAborted(error)) return;
      mayRead = error.status !== 403;
      history = reported;
    }
  } else history = reported;
  show();
  await learnTitles(history.slice(-MAX_SHOWN).map((event) => event.item_id));
  show();
}

/** Reports that the visitor met items. Resolves to whether they were taken. */
export async function report(itemIds, recommendationId = null) {
  const timestamp = Math.floor(Date.now() / 1_000);
  if (!isKept()) {
    addToHistory(itemIds.map((itemId) => ({ item_id: itemId, timestamp, type: state.eventType })));
    return true;
  }
  const [field, id] = owner();
  const events = itemIds.map((itemId) => ({
    [field]: id,
    event_id: newEventId(),
    item_id: itemId,
    type: state.eventType,
    timestamp,
    ...(recommendationId ? { recommendation_id: recommendationId } : {}),
  }));
  try {
    const answer = await ask("POST", "events", { body: { events } });
    token = answer.event_token;
    reported = [...reported, ...events].slice(-MAX_SHOWN);
    for (const problem of answer.rejected) toast(`An event was not taken: ${problem.detail}`, "error");
    return answer.accepted + answer.duplicates > 0;
  } catch (error) {
    toast(`The event was not taken: ${error.message}`, "error");
    return false;
  }
}

const newEventId = () => `console-${Date.now().toString(36)}-${randomWord()}`;

function show() {
  $("user-form").hidden = state.who !== "user";
  $("user-id").value = state.userId;
  clear($("recent-users"), state.recentUsers.map((userId) => h("option", { value: userId })));
  $("who-note").textContent = state.who === "user" && history.length ? "" : NOTES[state.who];
  showQuickStarts(history.length === 0);
  $("history-size").textContent = history.length ? count(history.length) : "";
  const newest = history.map((event, at) => ({ ...event, at })).reverse();
  clear($("history-list"), newest.slice(0, MAX_SHOWN).map(historyRow));
  $("history-note").textContent = historyNote();
  clear($("history-actions"), history.length ? actions() : []);
}

function historyNote() {
  if (!history.length) return "Empty. Click an item anywhere on this page.";
  if (isKept() && !mayRead) return "This key may not read histories (scope admin): these are the events that this page reported.";
  const numOlder = history.length - MAX_SHOWN;
  return numOlder > 0 ? `The newest ${MAX_SHOWN}; ${plural(numOlder, "older event")} not shown.` : "";
}

function historyRow(event) {
  const title = titleOf(event.item_id);
  const takeOut = () => setHistory(state.history.filter((_, at) => at !== event.at));
  return h(
    "li",
    { class: "row-item" },
    h("button", { class: "title", type: "button", onclick: () => app.openItem(event.item_id) }, title),
    h("span", { class: "meta" }, `${event.type} · ${ago(event.timestamp)}`),
    isKept() ? null : h("button", { class: "quiet icon", type: "button", "aria-label": `Take ${title} out`, onclick: takeOut }, "×"),
  );
}

function actions() {
  const button = (text, onclick) => h("button", { class: "quiet", type: "button", onclick }, text);
  if (state.who === "user") return [button("Erase this user", erase)];
  if (state.who === "session") return [button(`Merge into ${state.userId}`, merge), button("Erase this session", erase)];
  return [button("Empty it", () => setHistory([])), button("Keep as a user", keepAsUser)];
}

async function setHistory(entries) {
  state.history = entries;
  await open();
}

/** Reports the history's events as those of a new user, and opens that user. */
async function keepAsUser() {
  const userId = newUserId();
  const events = state.history.map((entry) => ({ ...entry, user_id: userId, event_id: newEventId() }));
  await act("The history was not kept", async () => {
    await ask("POST", "events", { body: { events } });
    openUser(userId);
    toast(`Kept as ${userId}`);
    await open("user");
  });
}

/** What happens when a visitor signs in: the session's events become the user's. */
async function merge() {
  await act("The session was not merged", async () => {
    const answer = await ask("POST", `users/${inPath(state.userId)}/merge`, { body: { session_id: state.sessionId } });
    state.sessionId = newSessionId();
    openUser(state.userId);
    toast(`${plural(answer.moved, "event")} moved to ${state.userId}`);
    await open("user");
  });
}

async function erase() {
  const [, id] = owner();
  const text = `Everything that the service keeps of ${id} is deleted: ${plural(history.length, "event")} and what models remember.`;
  if (!(await confirmed({ title: `Erase ${whom()}?`, text, yes: "Erase" }))) return;
  await act("Not erased", async () => {
    const receipt = await ask("DELETE", ownerPath());
    toast(`Erased ${id}: ${receipt.stores.map(({ store, records }) => `${store} ${records}`).join(", ")}`);
    await open();
  });
}

async function act(failure, work) {
  try {
    await work();
  } catch (error) {
    toast(`${failure}: ${error.message}`, "error");
  }
}
