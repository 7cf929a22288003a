// Who is looked at: a user or a session with a stored history, or a history that travels with the request; and what
// becomes of a click. In the preview it stays in this page, as the end of the history that is sent with each request;
// live it is an event in the stored history of the user or session.

import { ask, has, inPath, isAborted } from "./api.js";
import { $, clear, h, toast } from "./dom.js";
import { plural } from "./format.js";
import { showHistory } from "./history.js";
import { showQuickStarts } from "./quick_starts.js";
import { showSamples } from "./samples.js";
import { addToHistory, keep, newUserId, openUser, randomWord, state } from "./state.js";
import { learnTitles } from "./titles.js";

const MAX_LEARNT = 40;
const ORIGIN = "console";
const NOTES = {
  user: "Nothing is known of this user yet.",
  session: "A visitor who is not known yet: events stay with the session until it is merged into a user.",
  history: "The history is in each request, and the service keeps none of it.",
};
const LIVE_NOTES = {
  preview: "Clicks stay in this page. Nothing is stored.",
  live: "Clicks are stored in this visitor's history, marked as the console's.",
};

/** The history as the page knows it, oldest first: {item_id, type, timestamp}; previewed events have isPreview. */
export let history = [];

let app = null;
let stored = [];
let previewed = [];
let reported = [];
let mayRead = true;
let token = null;

export const isKept = () => state.who !== "history";
export const isReadable = () => mayRead;

export function initVisitor(theApp) {
  app = theApp;
  if (state.who === "session" && !has("sessions")) state.who = "user";
  for (const radio of radios()) {
    radio.checked = radio.value === state.who;
    radio.closest("label").hidden = radio.value === "session" && !has("sessions");
    radio.addEventListener("change", () => open(radio.value));
  }
  for (const radio of liveRadios()) radio.addEventListener("change", () => setLive(radio.value === "live"));
  $("user-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const userId = $("user-id").value.trim();
    if (userId) show(userId);
  });
  $("new-user").addEventListener("click", () => show(newUserId()));
  showLive();
}

const radios = () => document.getElementsByName("who");
const liveRadios = () => document.getElementsByName("live");

/** Opens a user, and puts them into the address. */
export function show(userId) {
  openUser(userId);
  return open("user");
}

async function setLive(isLive) {
  state.isLive = isLive;
  const numDropped = previewed.length;
  previewed = [];
  showLive();
  if (!numDropped) return;
  toast(`${plural(numDropped, "previewed event")} dropped: from now on ${isLive ? "clicks are stored" : "nothing is stored"}.`);
  combine();
  await app.refresh();
}

function showLive() {
  for (const radio of liveRadios()) radio.checked = (radio.value === "live") === state.isLive;
  $("live-switch").hidden = !isKept();
  $("who").classList.toggle("is-live", state.isLive && isKept());
  $("live-note").textContent = isKept() ? LIVE_NOTES[state.isLive ? "live" : "preview"] : "";
}

/** Whose history is stored: the name of the field, and the id. */
const owner = () => (state.who === "session" ? ["session_id", state.sessionId] : ["user_id", state.userId]);
export const ownerId = () => owner()[1];
export const ownerPath = () => (state.who === "session" ? `sessions/${inPath(state.sessionId)}` : `users/${inPath(state.userId)}`);

/** What a request says of the visitor. */
export function inRequest() {
  const asSent = (entries) => entries.map(({ item_id, timestamp, type }) => ({ item_id, timestamp, type }));
  if (!isKept()) return { history: asSent(state.history) };
  const [field, id] = owner();
  if (previewed.length) return { [field]: id, history: asSent(history) };
  return { [field]: id, ...(token ? { min_event_token: token } : {}) };
}

/** What a request for a later page says: whose list it goes on with. */
export function inPageRequest() {
  if (!isKept()) return {};
  const [field, id] = owner();
  return { [field]: id };
}

/** Looks at another visitor: nothing of the one before is shown. */
export async function open(who = state.who) {
  state.who = who;
  keep();
  for (const radio of radios()) radio.checked = radio.value === who;
  stored = [];
  previewed = [];
  reported = [];
  token = null;
  app.forget();
  app.visitorChanged();
  await loadHistory();
  await app.refresh();
}

/** Reads the history, from the service or, where the key may not, from what this page has reported. */
export async function loadHistory() {
  const path = ownerPath();
  if (isKept() && mayRead) {
    try {
      const answer = await ask("GET", path);
      if (path !== ownerPath() || !isKept()) return;
      stored = answer.history;
    } catch (error) {
      if (isAborted(error)) return;
      mayRead = error.status !== 403;
      stored = reported;
    }
  } else stored = reported;
  combine();
  await learnTitles(history.slice(-MAX_LEARNT).map((event) => event.item_id));
  showVisitor();
}

function combine() {
  history = isKept() ? [...stored, ...previewed] : state.history.map((entry) => ({ type: "click", ...entry }));
  showVisitor();
}

function showVisitor() {
  showLive();
  $("user-form").hidden = state.who !== "user";
  $("user-id").value = state.userId;
  clear($("recent-users"), state.recentUsers.map((userId) => h("option", { value: userId })));
  $("who-note").textContent = state.who === "user" && history.length ? "" : NOTES[state.who];
  showSamples(state.who === "user");
  showQuickStarts(history.length === 0);
  showHistory();
}

/** Takes what a visitor did: into this page, or as events. Resolves to whether the lists may change. */
export async function report(itemIds, type, recommendationId = null) {
  const timestamp = Math.floor(Date.now() / 1_000);
  const entries = itemIds.map((itemId) => ({ item_id: itemId, timestamp, type }));
  if (!isKept()) addToHistory(entries);
  else if (state.isLive) return send(entries, recommendationId);
  else previewed = [...previewed, ...entries.map((entry) => ({ ...entry, isPreview: true }))];
  combine();
  return true;
}

async function send(entries, recommendationId) {
  const [field, id] = owner();
  const events = entries.map((entry) => ({ ...asEvent(entry, field, id), ...(recommendationId ? { recommendation_id: recommendationId } : {}) }));
  try {
    const answer = await ask("POST", "events", { body: { events } });
    token = answer.event_token;
    reported = [...reported, ...events].slice(-MAX_LEARNT);
    for (const problem of answer.rejected) toast(`An event was not taken: ${problem.detail}`, "error");
    return answer.accepted + answer.duplicates > 0;
  } catch (error) {
    toast(`The event was not taken: ${error.message}`, "error");
    return false;
  }
}

/** An entry of a history as an event; what reads events can tell that it is the console's. */
export const asEvent = ({ item_id, timestamp, type }, field, id) => ({
  [field]: id,
  event_id: `console-${Date.now().toString(36)}-${randomWord()}`,
  item_id,
  type,
  timestamp,
  properties: { origin: ORIGIN },
});

/** Takes a previewed event back. */
export async function takeBack(event) {
  if (isKept()) previewed = previewed.filter((it) => it !== event);
  else state.history = state.history.filter((_, at) => at !== history.indexOf(event));
  keep();
  combine();
  await app.refresh();
}

/** Empties what is only in this page. */
export async function emptyPreview() {
  previewed = [];
  state.history = isKept() ? state.history : [];
  keep();
  combine();
  await app.refresh();
}

export const hasPreview = () => previewed.length > 0;
