// Theme switch, the state of live views, and what the pointer reads from charts.
(() => {
  "use strict";

  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    const theme = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("lmaas-theme", theme); } catch { /* not kept */ }
  });

  // On a narrow screen the links scroll: the one of this page is in sight. (`scrollIntoView` would
  // make the next Tab begin there.)
  const link = document.querySelector("nav a[aria-current='page']"), links = link?.closest("nav");
  if (link) links.scrollLeft += link.getBoundingClientRect().left - links.getBoundingClientRect().left - (links.clientWidth - link.clientWidth) / 2;

  // Whether the view is live. A browser connects again by itself, unless it is refused.
  const show = (live) => {
    for (const badge of document.querySelectorAll("[data-live]")) {
      badge.textContent = live ? "live" : "not live";
      badge.classList.toggle("off", !live);
    }
  };
  document.addEventListener("htmx:sseOpen", () => show(true));
  document.addEventListener("htmx:sseError", () => show(false));
  document.addEventListener("htmx:beforeRequest", () => { document.getElementById("notice")?.replaceChildren(); });

  // A crosshair with the values at the pointer.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let reading = null;

  const nearest = (points, at) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < at) low = middle; else high = middle;
    }
    return at - points[low][0] < points[high][0] - at ? points[low] : points[high];
  };
  const written = (value) => Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 10) / 10);

  const read = () => {
    const { chart, x, y } = reading;
    if (!chart.isConnected) { tip.hidden = true; reading = null; return; }
    const given = JSON.parse(chart.dataset.chart), box = chart.getBoundingClientRect();
    const at = (x - box.left) / box.width * given.span;
    tip.replaceChildren();
    for (const line of given.lines) {
      if (!line.points.length) continue;
      const [when, value] = nearest(line.points, at);
      if (Math.abs(when - at) > given.span / 25) continue;
      const row = document.createElement("div"), mark = document.createElement("i");
      mark.className = line.style;
      row.append(mark, `${line.name} ${written(value)}${given.unit ? " " + given.unit : ""}`);
      tip.append(row);
    }
    tip.hidden = !tip.children.length;
    tip.style.left = `${Math.min(x + 14, innerWidth - tip.offsetWidth - 8) + scrollX}px`;
    tip.style.top = `${y + 14 + scrollY}px`;
  };
  document.addEventListener("pointermove", (event) => {
    const chart = event.target.closest?.("svg.chart[data-chart]");
    if (!chart) { tip.hidden = true; reading = null; return; }
    reading = { chart, x: event.clientX, y: event.clientY };
    read();
  });
  document.addEventListener("htmx:sseMessage", () => { if (reading) read(); });
})();
