// The history of the visitor, and what can be done with all of it.

import { ask, inPath } from "./api.js";
import { $, clear, confirmed, h, toast } from "./dom.js";
import { ago, count, plural } from "./format.js";
import { roving } from "./roving.js";
import { newSessionId, newUserId, openUser, state } from "./state.js";
import { titleOf } from "./titles.js";
import { asEvent, emptyPreview, hasPreview, history, isKept, isReadable, loadHistory, open, ownerId, ownerPath, takeBack } from "./visitor.js";

const MAX_SHOWN = 40;
let app = null;

export function initHistory(theApp) {
  app = theApp;
  roving($("history-list"), { groups: "li" });
}

export function showHistory() {
  $("history-size").textContent = history.length ? count(history.length) : "";
  clear($("history-list"), history.toReversed().slice(0, MAX_SHOWN).map(row));
  $("history-note").textContent = note();
  clear($("history-actions"), history.length ? actions() : []);
}

function note() {
  if (!history.length) return "Empty. The buttons Click and Buy add to it.";
  if (isKept() && !isReadable()) return "This key may not read histories (scope admin): these are the events that this page reported.";
  const numOlder = history.length - MAX_SHOWN;
  return numOlder > 0 ? `The newest ${MAX_SHOWN}; ${plural(numOlder, "older event")} not shown.` : "";
}

function row(event) {
  const title = titleOf(event.item_id);
  const words = [event.type.replaceAll("_", " "), ago(event.timestamp), event.isPreview ? "preview" : event.properties?.origin];
  return h(
    "li",
    { class: "row-item" },
    h("button", { class: "title", type: "button", onclick: () => app.openItem(event.item_id) }, title),
    h("span", { class: "meta" }, words.filter(Boolean).join(" · ")),
    event.isPreview || !isKept() ? h("button", { class: "quiet icon", type: "button", "aria-label": `Take ${title} out`, onclick: () => takeBack(event) }, "×") : null,
  );
}

function actions() {
  const button = (text, onclick, look = "") => h("button", { class: look, type: "button", onclick }, text);
  const drop = hasPreview() ? button("Drop the preview", emptyPreview) : null;
  if (state.who === "user") return [drop, button("Erase this user", erase, "danger")];
  if (state.who === "session") return [drop, button(`Merge into ${state.userId}`, merge), button("Erase this session", erase, "danger")];
  return [button("Empty it", emptyPreview), button("Keep as a user", keepAsUser)];
}

/** Reports the history's events as those of a new user, and opens that user. */
async function keepAsUser() {
  const userId = newUserId();
  const events = state.history.map((entry) => asEvent(entry, "user_id", userId));
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
  const id = ownerId();
  const text = `Everything that the service keeps of ${id} is deleted: events, decision records, and what models remember.`;
  if (!(await confirmed({ title: state.who === "session" ? "Erase this session?" : "Erase this user?", text, yes: "Erase", isDangerous: true }))) return;
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
    await loadHistory();
  }
}
