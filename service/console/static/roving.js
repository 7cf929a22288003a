// One stop of the Tab key for many things of a kind: arrow keys go from one to the next.

const KEYS = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 };

/**
 * Makes a container one stop.
 *
 * `groups` are the things (rows, chips); only what can be focused in the present one is a stop, its `stops`. `keys` says
 * which arrow keys go on: "vertical" or "horizontal". `leave` is called when somebody goes up from the first.
 */
export function roving(container, { groups, stops = "button, summary", keys = "vertical", leave = null }) {
  const wanted = keys === "vertical" ? ["ArrowDown", "ArrowUp"] : ["ArrowRight", "ArrowLeft"];
  let present = 0;

  const all = () => [...container.querySelectorAll(groups)];
  const stopsOf = (group) => (group.matches(stops) ? [group] : [...group.querySelectorAll(stops)]);

  function show() {
    const there = all();
    present = Math.min(present, Math.max(there.length - 1, 0));
    there.forEach((group, at) => {
      for (const stop of stopsOf(group)) stop.tabIndex = at === present ? 0 : -1;
    });
  }

  container.addEventListener("focusin", (event) => {
    const at = all().findIndex((group) => group.contains(event.target));
    if (at < 0 || at === present) return;
    present = at;
    show();
  });
  container.addEventListener("keydown", (event) => {
    const isField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    const step = event.key === "Home" ? -Infinity : event.key === "End" ? Infinity : wanted.includes(event.key) ? KEYS[event.key] : 0;
    if (isField || !step || event.ctrlKey || event.metaKey || event.altKey) return;
    const there = all();
    const from = there.findIndex((group) => group.contains(document.activeElement));
    if (from < 0) return;
    event.preventDefault();
    if (from + step < 0 && step === -1 && leave) return leave();
    stopsOf(there[Math.min(Math.max(from + step, 0), there.length - 1)])[0]?.focus();
  });
  new MutationObserver(show).observe(container, { childList: true, subtree: true });
  show();
}
