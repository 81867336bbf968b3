// Which view is shown, by the address behind the #; the keys, the theme and the collections that all views share.

import { ask, attempt } from "./api.js";
import * as article from "./article.js";
import { number } from "./dom.js";
import * as evaluation from "./evaluation.js";
import * as lookahead from "./lookahead.js";
import * as search from "./search.js";

const main = document.getElementById("main");
const THEMES = ["auto", "light", "dark"];

// A view is show(place, route, page) → { update(route), keys, close() }; `update` takes another address of its kind.
const VIEWS = {
  search: search.show,
  article: article.show,
  ahead: lookahead.showPlace,
  text: lookahead.showText,
  evaluation: evaluation.show,
};

const page = {
  collections: fetchedOnce(async () => (await ask("/api/collections")).collections),
  models: fetchedOnce(() => ask("/api/models")),
  searched: "#/", // where Esc leads back to from an article
  go,
  titled: (title) => {
    document.title = title ? `${title} · lookahead` : "lookahead";
  },
};

let shown = null; // { name, view }

function go(hash, { replace = false } = {}) {
  if (hash === location.hash) return;
  if (replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  route();
}

function route() {
  const wanted = routeOf(location.hash);
  if (shown?.name === wanted.name) {
    shown.view.update(wanted);
  } else {
    shown?.view.close();
    main.replaceChildren();
    scrollTo(0, 0);
    shown = { name: wanted.name, view: VIEWS[wanted.name](main, wanted, page) };
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.view === wanted.name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
}

// "#/article/42?at=3" → { name: "article", id: "42", params }; an address of no view is the search's
function routeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id = ""] = path.split("/");
  const params = new URLSearchParams(query);
  const known = name in VIEWS && (!["article", "ahead"].includes(name) || /^\d+$/.test(id));
  return { name: known ? name : "search", id, params };
}

// A function that asks once and then remembers, but forgets a failure.
function fetchedOnce(work) {
  let held = null;
  return () => {
    held ??= work().catch((error) => {
      held = null;
      throw error;
    });
    return held;
  };
}

// -- keys --------------------------------------------------------------------------------------------------

const help = document.getElementById("help");
const letters = document.getElementById("letters");

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input, textarea, select");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  if (event.key.length === 1 && !letters.checked) return;
  if (event.key === "?") help.showModal();
  else if (event.key === "/") toSearchBox();
  else if (!shown?.view.keys?.[event.key]?.(event)) return; // a key's function says whether it was of use
  event.preventDefault();
}

function toSearchBox() {
  if (shown.name !== "search") go(page.searched);
  document.getElementById("query").select();
}

// -- what is kept between visits ---------------------------------------------------------------------------

function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage can be forbidden
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // it then holds until the page is left
  }
}

function dress(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = `Theme: ${theme}`;
}

// -- begin -------------------------------------------------------------------------------------------------

let theme = THEMES.includes(kept("theme")) ? kept("theme") : "auto";
dress(theme);
document.getElementById("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  keep("theme", theme);
  dress(theme);
});
letters.checked = kept("letters") !== "off";
letters.addEventListener("change", () => keep("letters", letters.checked ? "on" : "off"));
document.getElementById("keys").addEventListener("click", () => help.showModal());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the # is the address of a view
  main.focus();
});
addEventListener("keydown", pressed);
addEventListener("popstate", route); // Back, Forward, a link, an address typed by hand
route();

attempt(document.getElementById("about"), async () => {
  const told = (await page.collections()).map(
    (one) => `${one.name}: ${number(one.articles)} articles, ${number(one.live)} chunks`,
  );
  document.getElementById("about").textContent = told.join(" · ");
});
