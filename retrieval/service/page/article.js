// The reading view: an article opened at a chunk, loaded in pages around it.

import { ask, attempt } from "./api.js";
import { address, el, number } from "./dom.js";

const PAGE = 100; // chunks a request
const BEFORE = 30; // of them stand before the chunk that was asked for

export function show(place, first, page) {
  let route = first;
  let running = new AbortController();
  let told = null; // the article, without its chunks
  let from = 0; // [from, to) are on the page
  let to = 0;
  let here = 0; // the position that is marked

  const head = el("header", { class: "head" });
  const earlier = more("Earlier chunks", () => extend(Math.max(0, from - PAGE), from));
  const later = more("Further chunks", () => extend(to, Math.min(told.chunk_count, to + PAGE)));
  const body = el("div", { class: "chunks" });
  const trouble = el("div");
  place.append(el("article", { class: "article" }, head, trouble, earlier, body, later));
  open();

  return {
    update(next) {
      const same = next.id === route.id && next.params.get("collection") === route.params.get("collection");
      route = next;
      if (same && told && from <= wanted() && wanted() < to) mark(wanted());
      else open();
    },
    keys: {
      j: () => step(1),
      ArrowDown: () => step(1),
      n: () => step(1),
      k: () => step(-1),
      ArrowUp: () => step(-1),
      p: () => step(-1),
      l: () => ahead(),
      Enter: () => document.activeElement?.matches(".chunk") && ahead(),
      Escape: () => leave(),
    },
    close: () => running.abort(),
  };

  function wanted() {
    const at = Math.trunc(Number(route.params.get("at")));
    return Number.isSafeInteger(at) ? Math.max(0, at) : 0;
  }

  function collection() {
    return route.params.get("collection");
  }

  function open() {
    running.abort();
    running = new AbortController();
    told = null;
    for (const node of [head, body]) node.replaceChildren();
    earlier.hidden = later.hidden = true;
    const work = async () => {
      const start = Math.max(0, wanted() - BEFORE);
      let answer = await chunksFrom(start, PAGE);
      if (!answer.chunks.length && answer.chunk_count) {
        answer = await chunksFrom(Math.max(0, answer.chunk_count - BEFORE), PAGE); // it was longer once
      }
      trouble.replaceChildren();
      told = answer;
      from = to = answer.start;
      page.titled(told.title);
      header();
      append(answer.chunks);
      mark(Math.min(wanted(), told.chunk_count - 1));
    };
    attempt(trouble, work, body);
  }

  function chunksFrom(start, limit) {
    return ask(`/api/articles/${route.id}`, {
      params: { start, limit, collection: collection() },
      signal: running.signal,
    });
  }

  function header() {
    head.replaceChildren(
      el("p", { class: "trail" }, el("a", { href: page.searched }, "← Back to the results")),
      el("h1", { tabindex: -1 }, told.title),
      el(
        "p",
        { class: "soft" },
        `${number(told.chunk_count)} chunks · ${told.split} split · ${told.source ?? told.collection} · `,
        el("a", { href: address("", { title: told.title, collection: collection() }) }, "search in this article"),
      ),
    );
  }

  // More of the article above or below; what is being read stays where it is on the screen.
  function extend(start, stop) {
    attempt(trouble, async () => {
      const { chunks } = await chunksFrom(start, stop - start);
      trouble.replaceChildren();
      if (start >= to) {
        append(chunks);
        return;
      }
      const fixed = body.firstElementChild;
      const top = fixed.getBoundingClientRect().top;
      from = start;
      body.prepend(...chunks.map((one, index) => chunk(one, chunks[index - 1])));
      ends();
      scrollBy({ top: fixed.getBoundingClientRect().top - top, behavior: "instant" });
    });
  }

  function append(chunks) {
    let before = null;
    for (const one of chunks) {
      body.append(chunk(one, before));
      before = one;
    }
    to += chunks.length;
    ends();
  }

  function ends() {
    earlier.hidden = from === 0;
    later.hidden = to >= told.chunk_count;
  }

  function chunk(one, before) {
    const heading = one.section && one.section !== before?.section && el("h2", {}, one.section);
    return el(
      "section",
      { class: "chunk", tabindex: -1, "data-position": one.position, "aria-label": `Chunk ${one.position + 1}` },
      heading,
      el("span", { class: "place", "aria-hidden": "true" }, one.position + 1),
      el("p", { class: "text" }, one.text),
      el(
        "a",
        { class: "ahead", href: aheadOf(one.position), on: { click: () => stay(one.position) } },
        "Look ahead",
        el("span", { class: "unseen" }, ` from chunk ${one.position + 1}`),
      ),
    );
  }

  function aheadOf(position) {
    return address(`ahead/${route.id}`, { at: position, collection: collection() });
  }

  // Back comes back to the chunk that was left, not to the one the article was opened at.
  function stay(position) {
    history.replaceState(null, "", address(`article/${route.id}`, { at: position, collection: collection() }));
  }

  function mark(position) {
    here = position;
    body.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const chosen = body.querySelector(`[data-position="${position}"]`);
    chosen.setAttribute("aria-current", "true");
    chosen.focus({ preventScroll: true });
    const { top, bottom } = chosen.getBoundingClientRect();
    if (top < 0 || bottom > 0.85 * innerHeight) chosen.scrollIntoView({ block: "center" });
  }

  function step(by) {
    const focused = document.activeElement?.closest(".chunk")?.dataset.position;
    const next = Number(focused ?? here) + by;
    if (next < from || next >= to) return Boolean(told);
    mark(next);
    stay(next);
    return true;
  }

  function ahead() {
    if (!told) return false;
    const focused = document.activeElement?.closest(".chunk")?.dataset.position;
    const position = Number(focused ?? here);
    stay(position);
    page.go(aheadOf(position));
    return true;
  }

  function leave() {
    page.go(page.searched);
    return true;
  }

  function more(label, work) {
    return el("button", { type: "button", class: "more", hidden: true, on: { click: work } }, label);
  }
}
