// A classic script, so that a chosen theme holds before anything is painted; theme.js does the rest.
(() => {
  try {
    const chosen = localStorage.getItem("overtone.theme");
    if (chosen) document.documentElement.dataset.theme = chosen;
  } catch { /* storage is off: the system's theme holds */ }
})();
