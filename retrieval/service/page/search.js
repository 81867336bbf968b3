// The search view: a box, results as the reader pauses, and where each score comes from.

import { ask, attempt } from "./api.js";
import { address, bar, el, highlighted, number, ordinal, under, where } from "./dom.js";

const PAUSE = 120; // milliseconds without a key before a question is asked
const MODES = [
  ["hybrid", "Meaning and words"],
  ["dense", "Meaning"],
  ["lexical", "Words"],
];
const SPLITS = ["train", "valid", "test"];
const K = 10;

let last = null; // the answer shown last, so that Back finds it at once: { asked, answer, chosen }

export function show(place, first, page) {
  let route = first;
  let settled = true; // whether the address in the history is one to come back to
  let timer = 0;
  let running = null;

  const box = el("input", {
    ...{ id: "query", type: "search", name: "q", maxlength: 2000, autocomplete: "off", spellcheck: "false" },
    ...{ enterkeyhint: "search", placeholder: "Ask, or name what you look for", "aria-describedby": "count" },
  });
  const modes = el(
    "fieldset",
    { class: "modes" },
    el("legend", { class: "unseen" }, "Search by"),
    MODES.map(([value, label]) =>
      el("label", {}, el("input", { type: "radio", name: "mode", value }), el("span", {}, label)),
    ),
  );
  const title = el("input", { id: "in-title", list: "titles", autocomplete: "off" });
  const titles = el("datalist", { id: "titles" });
  const section = el("input", { id: "in-section", autocomplete: "off" });
  const split = el(
    "select",
    { id: "in-split" },
    el("option", { value: "" }, "any"),
    SPLITS.map((one) => el("option", { value: one }, one)),
  );
  const k = el("input", { id: "k", type: "number", min: 1, max: 100, inputmode: "numeric" });
  const collection = el("select", { id: "in-collection" });
  const collectionField = field("Collection", collection);
  collectionField.hidden = true;
  const filters = el(
    "details",
    { class: "filters" },
    el("summary", {}, "Filters"),
    el(
      "div",
      { class: "fields" },
      field("Only in the article", title, titles),
      field("Only under the heading", section),
      field("Only in the split", split),
      field("Results", k),
      collectionField,
    ),
  );
  const count = el("p", { id: "count", role: "status" });
  const legend = el(
    "details",
    { class: "legend", hidden: true },
    el("summary", {}, "What the bars say"),
    el(
      "p",
      {},
      el("b", {}, "meaning"),
      ": cosine between the question's vector and the chunk's, the full bar is 1. ",
      el("b", {}, "words"),
      ": BM25, which has no upper end, so the full bar is the best of this list. ",
      el("b", {}, "closeness"),
      ": which part of the question's words, rare ones counting more, stands within a sentence's length.",
    ),
  );
  const list = el("ol", { class: "results" });
  const trouble = el("div");
  const welcome = el(
    "section",
    { class: "welcome" },
    el("p", {}, "Type, and chunks of articles appear: found by what they mean, and by the words they hold."),
    el(
      "p",
      {},
      "Open one to read it in its article. From any chunk, ",
      el("b", {}, "look ahead"),
      ": a model reads it and the four before it, and says what it expects to come next. The article then tells ",
      "whether it was right.",
    ),
    el(
      "p",
      {},
      "Or let it look ahead from ",
      el("a", { href: "#/text" }, "your own text"),
      ". ",
      el("kbd", {}, "?"),
      " shows the keys.",
    ),
  );
  place.append(
    el("h1", { class: "unseen" }, "Search"),
    el(
      "form",
      { class: "ask", role: "search", on: { submit: entered } },
      el("label", { for: "query", class: "unseen" }, "Search the articles"),
      box,
      el("button", { class: "main" }, "Search"),
      modes,
      filters,
    ),
    el("div", { class: "told" }, count, legend),
    trouble,
    welcome,
    list,
  );

  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => refer(false), PAUSE);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && move(1)) event.preventDefault();
  });
  modes.addEventListener("change", () => refer(true, false));
  for (const one of [section, split, k, collection, title]) one.addEventListener("change", () => refer(true, false));
  let suggesting = 0;
  title.addEventListener("input", () => {
    clearTimeout(suggesting);
    suggesting = setTimeout(suggest, PAUSE);
  });
  fill();
  if (route.params.get("title") || route.params.get("section") || route.params.get("split")) filters.open = true;
  load();
  if (!matchMedia("(pointer: coarse)").matches && !last?.chosen) box.focus();
  offerCollections();

  return {
    update(next) {
      route = next;
      fill();
      load();
    },
    keys: {
      j: () => move(1),
      ArrowDown: () => move(1),
      k: () => move(-1),
      ArrowUp: () => move(-1),
      l: lookAhead,
    },
    close() {
      clearTimeout(timer);
      clearTimeout(suggesting);
      running?.abort();
    },
  };

  function field(label, input, ...more) {
    return el("div", { class: "field" }, el("label", { for: input.id }, label), input, ...more);
  }

  function entered(event) {
    event.preventDefault();
    clearTimeout(timer);
    refer(true);
  }

  // Puts what the form says into the address; typing on replaces an address that nobody settled on.
  function refer(settle, replace = !settled) {
    const mode = modes.querySelector("input:checked").value;
    const wanted = Math.min(100, Math.max(1, Math.round(Number(k.value)) || K));
    const hash = address("", {
      q: box.value.trim(),
      mode: mode === "hybrid" ? null : mode,
      k: wanted === K ? null : wanted,
      title: title.value.trim(),
      section: section.value.trim(),
      split: split.value,
      collection: collection.value,
    });
    settled = settle;
    page.go(hash, { replace });
  }

  // The form as the address has it; a field in use is left as it is.
  function fill() {
    const { params } = route;
    if (box.value.trim() !== (params.get("q") ?? "")) box.value = params.get("q") ?? "";
    const mode = MODES.some(([value]) => value === params.get("mode")) ? params.get("mode") : "hybrid";
    modes.querySelector(`input[value=${mode}]`).checked = true;
    title.value = params.get("title") ?? "";
    section.value = params.get("section") ?? "";
    split.value = SPLITS.includes(params.get("split")) ? params.get("split") : "";
    k.value = params.get("k") ?? K;
    collection.value = params.get("collection") ?? "";
  }

  function load() {
    running?.abort();
    const { params } = route;
    const q = params.get("q") ?? "";
    page.searched = location.hash || "#/";
    page.titled(q);
    welcome.hidden = Boolean(q);
    if (!q) {
      list.replaceChildren();
      trouble.replaceChildren();
      count.textContent = "";
      legend.hidden = true;
      return;
    }
    if (last?.asked === location.hash) {
      draw(last.answer);
      choose(last.chosen);
      return;
    }
    const mine = (running = new AbortController());
    const asked = location.hash;
    const work = async () => {
      try {
        const answer = await ask("/api/search", {
          params: { k: K, mode: "hybrid", ...Object.fromEntries(params) },
          signal: mine.signal,
        });
        last = { asked, answer, chosen: null };
        trouble.replaceChildren();
        draw(answer);
        performance.mark("results-shown");
      } catch (error) {
        if (error.name !== "AbortError") {
          list.replaceChildren();
          count.textContent = "";
        }
        throw error;
      }
    };
    attempt(trouble, work, list);
  }

  function draw(answer) {
    const { results } = answer;
    const best = Math.max(0, ...results.map((one) => one.lexical ?? 0));
    const named = results.length === 1 ? "1 result" : `${results.length} results`;
    count.textContent = `${results.length ? named : "Nothing found"}${answer.note ? `: ${answer.note}` : ""}`;
    legend.hidden = !results.length;
    list.replaceChildren(...results.map((one) => result(one, best)));
  }

  function result(one, best) {
    const at = { at: one.position, collection: route.params.get("collection") };
    return el(
      "li",
      { "data-chunk": one.chunk_id },
      el(
        "h2",
        {},
        el(
          "a",
          { href: address(`article/${one.page_id}`, at), class: "open", on: { click: () => chosen(one) } },
          one.title,
          under(one.section),
        ),
      ),
      el("p", { class: "text" }, highlighted(one.text, one.spans)),
      el(
        "div",
        { class: "parts" },
        scores(one, best),
        el(
          "a",
          { class: "ahead", href: address(`ahead/${one.page_id}`, at), on: { click: () => chosen(one) } },
          "Look ahead",
          el("span", { class: "unseen" }, ` from ${where(one.title, one.section)}`),
        ),
      ),
    );
  }

  function scores({ dense, dense_rank, lexical, lexical_rank, closeness }, best) {
    const bars = [];
    if (dense !== null) {
      const why = `cosine ${dense.toFixed(3)}${ranked(dense_rank, "meaning")}`;
      bars.push(bar("meaning", "meaning", dense, dense.toFixed(2), why));
    }
    if (lexical !== null) {
      const why = `BM25 ${lexical.toFixed(2)}, the best here has ${best.toFixed(2)}${ranked(lexical_rank, "words")}`;
      bars.push(bar("words", "words", best && lexical / best, lexical.toFixed(1), why));
    }
    if (closeness !== null) {
      const why = "of the question's words within a sentence's length";
      bars.push(bar("closeness", "closeness", closeness, `${number(100 * closeness)} %`, why));
    }
    return bars;
  }

  function ranked(rank, what) {
    return rank === null ? `, outside the best by ${what}` : `, ${ordinal(rank)} by ${what}`;
  }

  function chosen(one) {
    settled = true;
    if (last) last.chosen = one.chunk_id;
  }

  function choose(chunk) {
    const link = chunk === null ? null : list.querySelector(`[data-chunk="${chunk}"] .open`);
    link?.focus();
  }

  function move(step) {
    const links = [...list.querySelectorAll(".open")];
    const here = links.indexOf(document.activeElement?.closest("li")?.querySelector(".open"));
    if (here === 0 && step < 0) {
      box.focus();
      return true;
    }
    const next = links[Math.min(links.length - 1, Math.max(0, here + step))];
    next?.focus();
    next?.closest("li").scrollIntoView({ block: "nearest" });
    return Boolean(next);
  }

  function lookAhead() {
    const here = document.activeElement?.closest("li") ?? list.querySelector("li");
    here?.querySelector(".ahead").click();
    return Boolean(here);
  }

  function suggest() {
    const params = { title: title.value.trim(), limit: 10, collection: collection.value };
    attempt(trouble, async () => {
      const { articles } = params.title ? await ask("/api/articles", { params }) : { articles: [] };
      titles.replaceChildren(...articles.map((one) => el("option", { value: one.title })));
      if (!params.title || articles.some((one) => one.title === title.value)) refer(true);
    });
  }

  function offerCollections() {
    attempt(trouble, async () => {
      const all = await page.collections();
      collection.replaceChildren(
        ...all.map((one) => el("option", { value: one.default ? "" : one.name }, one.name)),
      );
      collection.value = route.params.get("collection") ?? "";
      collectionField.hidden = all.length < 2;
    });
  }
}
