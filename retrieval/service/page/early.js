// What must run before anything else: the theme a reader chose, and mistakes of ours made visible.
// A classic script in the head, so that it also sees a module that cannot be loaded.
"use strict";

(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // storage can be forbidden; the system's theme is then used
  }

  function show(what) {
    let bar = document.getElementById("fault");
    if (!bar) {
      bar = document.createElement("div");
      bar.id = "fault";
      bar.className = "fault";
      bar.setAttribute("role", "alert");
      const text = document.createElement("p");
      const close = document.createElement("button");
      close.type = "button";
      close.textContent = "Dismiss";
      close.addEventListener("click", () => bar.remove());
      bar.append(text, close);
      (document.body || document.documentElement).prepend(bar);
    }
    bar.firstChild.textContent =
      `A mistake in this page: ${what}. Reload the page; if it happens again, please report it.`;
  }

  addEventListener(
    "error",
    (event) => {
      const missing = event.target instanceof Element && (event.target.src || event.target.href);
      if (event.target instanceof HTMLImageElement) return; // a plot says by itself that it is missing
      show(missing ? `${missing} could not be loaded` : event.message || "unknown");
    },
    true, // a file that fails to load tells it only on the way down
  );
  addEventListener("unhandledrejection", (event) => show(String(event.reason?.message ?? event.reason)));
  addEventListener("securitypolicyviolation", (event) => {
    show(`${event.violatedDirective} refused ${event.blockedURI}`);
  });
})();
