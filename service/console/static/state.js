// What the visitor of this page has chosen; it survives a reload of the tab and nothing more. Whether clicks are stored
// does not even survive that: the page always begins with the preview.

const STORED = "hatstand.console";
const MAX_RECENT = 20;
const MAX_HISTORY = 200;

const defaults = () => ({
  who: "user",
  userId: newUserId(),
  recentUsers: [],
  sessionId: newSessionId(),
  history: [],
  view: "both",
  modes: {},
  k: 8,
  diversity: 0,
  explain: true,
  excludeSeen: true,
  shown: "lists",
  filter: {},
  excluded: [],
  scenario: "",
});

export const state = Object.assign(defaults(), restored(), { isLive: false });

/** Keeps the state; call it after every change. */
export function keep() {
  try {
    sessionStorage.setItem(STORED, JSON.stringify({ ...state, isLive: undefined }));
  } catch {
    // storage is off or full: the page works, and forgets
  }
}

export function newUserId() {
  return `visitor-${randomWord()}`;
}

/** Opens a user, and remembers it among the recent ones. */
export function openUser(userId) {
  state.who = "user";
  state.userId = userId;
  state.recentUsers = [userId, ...state.recentUsers.filter((it) => it !== userId)].slice(0, MAX_RECENT);
  keep();
}

export function newSessionId() {
  return `session-${randomWord()}`;
}

/** Adds to the history that travels with requests; the oldest go when there are too many. */
export function addToHistory(entries) {
  state.history = [...state.history, ...entries].slice(-MAX_HISTORY);
  keep();
}

/** Random letters and digits. Not crypto.randomUUID, which browsers have on https and loopback only. */
export function randomWord(length = 8) {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, (byte) => "abcdefghijkmnpqrstuvwxyz23456789"[byte % 32]).join("");
}

function restored() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED));
    const known = Object.keys(defaults());
    return Object.fromEntries(Object.entries(stored ?? {}).filter(([name]) => known.includes(name)));
  } catch {
    return {};
  }
}
