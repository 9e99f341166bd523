// Sets the theme before anything is drawn; without a choice it is that of the system.
(() => {
  "use strict";
  const chosen = (() => { try { return localStorage.getItem("lmaas-theme"); } catch { return null; } })();
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
