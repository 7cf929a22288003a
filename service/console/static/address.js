// What the address of the page says: #recommend?user=customer-95&scenario=home, #scenarios, #operations.

const VIEWS = ["recommend", "scenarios", "operations"];
const MAX_ID = 256;

/** {view, user, scenario} of the present address; user and scenario are null where it names none. */
export function readAddress() {
  const [name, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const said = new URLSearchParams(query);
  const user = said.get("user");
  return { view: VIEWS.includes(name) ? name : "recommend", user: user && user.length <= MAX_ID ? user : null, scenario: said.get("scenario") };
}

/** The address of a visitor's lists. */
export function addressOf({ user = null, scenario = "" }) {
  const said = new URLSearchParams({ ...(user ? { user } : {}), ...(scenario ? { scenario } : {}) }).toString();
  return `#recommend${said ? `?${said}` : ""}`;
}

/** Shows where one is; a visitor who is opened is a step that the browser can go back from. */
export function writeAddress(place, { isStep = false } = {}) {
  const address = addressOf(place);
  if (address === location.hash) return;
  if (isStep) window.history.pushState(null, "", address);
  else window.history.replaceState(null, "", address);
}
