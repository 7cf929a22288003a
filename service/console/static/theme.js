// Runs before anything is painted, so that a chosen theme does not flash in the other one first.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("hatstand.theme");
  } catch {
    // storage is off: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
