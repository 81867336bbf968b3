// Looking ahead, from a place in an article (with steps through it) or from the reader's own text.

import { ask, attempt } from "./api.js";
import { address, el, number, ordinal } from "./dom.js";
import { draw } from "./prediction.js";

const K = 5;
const SEEN = ["After chunk", "The true next came", "Copying it", "Nearer"];
const HINT = "One or several paragraphs. The last five chunks of them are read.";
const EMPTY = "There is no text yet. Write or paste a paragraph above.";
let written = { text: "", answer: null }; // the reader's own text and what came of it, while the page is open

export function showPlace(place, first, page) {
  let route = first;
  let running = new AbortController();
  let told = null;
  let steps = new Map(); // position → ranks: what was seen in this article

  const back = button("← One back", "p", () => move(-1));
  const forth = button("One forward →", "n", () => move(1));
  const title = el("h1", { tabindex: -1 });
  const trail = el("p", { class: "trail" });
  const at = el("p", { class: "soft", role: "status" });
  const model = el("div", { class: "field inline" });
  const trouble = el("div");
  const body = el("div", { class: "prediction" });
  const seen = el("div");
  place.append(
    el("header", { class: "head" }, trail, title, at),
    el("div", { class: "steps", role: "group", "aria-label": "Steps through the article" }, back, forth, model),
    trouble,
    body,
    seen,
  );
  load(true);
  offerModels(model, () => route.params, page, (name) => page.go(hash(position(), name)), trouble);

  return {
    update(next) {
      if (next.id !== route.id) steps = new Map();
      route = next;
      load(false);
    },
    keys: {
      n: () => move(1),
      p: () => move(-1),
      j: () => move(1),
      k: () => move(-1),
      w: () => words(body),
      Escape: () => leave(),
    },
    close: () => running.abort(),
  };

  function position() {
    return Math.max(0, Number(route.params.get("at")) || 0);
  }

  function hash(at, name = route.params.get("model")) {
    return address(`ahead/${route.id}`, { at, collection: route.params.get("collection"), model: name });
  }

  function article(at) {
    return address(`article/${route.id}`, { at, collection: route.params.get("collection") });
  }

  function load(focus) {
    running.abort();
    const mine = (running = new AbortController());
    back.disabled = position() === 0;
    const work = async () => {
      const asked = question(route.params, { page_id: Number(route.id), position: position() + 1 });
      told = await ask("/api/predict-next", { body: asked, signal: mine.signal });
      trouble.replaceChildren();
      header();
      draw(body, told, { collection: route.params.get("collection"), asked, signal: mine.signal });
      remember();
      if (focus) title.focus({ preventScroll: true });
    };
    attempt(trouble, work, body);
  }

  function header() {
    const { context } = told;
    page.titled(`After chunk ${position() + 1} of ${context.title}`);
    trail.replaceChildren(el("a", { href: article(position()) }, "← Back to the article"));
    title.textContent = context.title;
    at.textContent = `Looking ahead from chunk ${number(position() + 1)} of ${number(context.chunk_count)}`;
    forth.disabled = position() + 1 >= context.chunk_count;
  }

  function remember() {
    if (told.truth) steps.set(position(), told.truth);
    if (steps.size < 2) {
      seen.replaceChildren();
      return;
    }
    const rows = [...steps].sort(([a], [b]) => a - b);
    seen.replaceChildren(
      el(
        "section",
        { class: "seen", "aria-labelledby": "seen-title" },
        el("h2", { id: "seen-title" }, "Your steps so far"),
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, SEEN.map((one) => el("th", { scope: "col" }, one)))),
          el(
            "tbody",
            {},
            rows.map(([at, { rank, copied_rank }]) =>
              el(
                "tr",
                {},
                el("th", { scope: "row" }, el("a", { href: hash(at) }, at + 1)),
                el("td", {}, ordinal(rank)),
                el("td", {}, ordinal(copied_rank)),
                el("td", {}, rank < copied_rank ? "the model" : rank > copied_rank ? "the copy" : "the same"),
              ),
            ),
          ),
        ),
      ),
    );
  }

  // A step replaces the address, so that Back leads out of the steps and not through them.
  function move(by) {
    const next = position() + by;
    if (next < 0 || (told && next >= told.context.chunk_count)) return true;
    page.go(hash(next), { replace: true });
    return true;
  }

  function leave() {
    page.go(article(position()));
    return true;
  }
}

export function showText(place, first, page) {
  let route = first;
  let running = new AbortController();
  const box = el("textarea", { id: "own", rows: 8, maxlength: 100000, placeholder: HINT });
  box.value = written.text;
  const model = el("div", { class: "field inline" });
  const trouble = el("div");
  const body = el("div", { class: "prediction" });
  place.append(
    el("header", { class: "head" }, el("h1", {}, "Look ahead from your own text")),
    el(
      "form",
      { class: "own", on: { submit: entered } },
      el("label", { for: "own" }, "What would come after this text?"),
      box,
      el(
        "div",
        { class: "row" },
        el("button", { class: "main" }, "Look ahead"),
        el("span", { class: "soft" }, el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter")),
        model,
      ),
    ),
    trouble,
    body,
  );
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    entered(event);
  });
  page.titled("Your own text");
  if (written.answer) redraw();
  else if (!matchMedia("(pointer: coarse)").matches) box.focus();
  const choose = (name) => page.go(address("text", { ...Object.fromEntries(route.params), model: name }));
  offerModels(model, () => route.params, page, choose, trouble);

  return {
    update(next) {
      route = next;
      if (written.answer) load();
    },
    keys: { w: () => words(body), Escape: () => (page.go(page.searched), true) },
    close() {
      running.abort();
      written.text = box.value;
    },
  };

  function entered(event) {
    event.preventDefault();
    load();
  }

  function load() {
    running.abort();
    if (!box.value.trim()) {
      trouble.replaceChildren(el("div", { class: "trouble", role: "alert" }, el("p", {}, EMPTY)));
      return;
    }
    running = new AbortController();
    const { signal } = running;
    const work = async () => {
      const asked = question(route.params, { text: box.value });
      const answer = await ask("/api/predict-next", { body: asked, signal });
      trouble.replaceChildren();
      written = { text: box.value, answer, asked };
      redraw();
    };
    attempt(trouble, work, body);
  }

  function redraw() {
    running.abort();
    running = new AbortController();
    const collection = route.params.get("collection");
    draw(body, written.answer, { collection, asked: written.asked, signal: running.signal });
  }
}

function question(params, after) {
  return { ...after, k: K, map: true, model: params.get("model"), collection: params.get("collection") };
}

function words(body) {
  const put = body.querySelector("#put-into-words");
  put?.click();
  return Boolean(put);
}

// A choice of the collection's predictors, where there are several.
function offerModels(place, params, page, choose, trouble) {
  attempt(trouble, async () => {
    const [{ predictors }, collections] = await Promise.all([page.models(), page.collections()]);
    const name = params().get("collection") ?? collections.find((one) => one.default)?.name;
    const fitting = predictors.filter((one) => one.collection === name);
    if (fitting.length < 2) return;
    const select = el(
      "select",
      { id: "model", on: { change: () => choose(select.value) } },
      fitting.map((one) => el("option", { value: one.default ? "" : one.name }, `${one.name} (${one.kind})`)),
    );
    select.value = params().get("model") ?? "";
    place.replaceChildren(el("label", { for: "model" }, "Model"), select);
  });
}

function button(label, key, work) {
  return el(
    "button",
    { type: "button", "aria-keyshortcuts": key, on: { click: work } },
    label,
    " ",
    el("kbd", { "aria-hidden": "true" }, key),
  );
}
