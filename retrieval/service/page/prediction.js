// Draws one prediction: what it was made from, what is expected beside what does come, a map, and words for it.

import { ask, attempt } from "./api.js";
import { address, bar, el, number, ordinal, under, where } from "./dom.js";
import { drawMap } from "./map.js";

const SHARE = "its share of the reranker's list: all of it makes 100 %";
const GIST =
  "A second model can write a text for the predicted vector. It is a gist: at best the topic is right. " +
  "Names and numbers in it are invented. It takes some seconds.";
const OF = {
  prediction: "Words for what is expected",
  truth: "Words for the true next chunk",
  "copy-last": "Words for the last chunk read",
};

// `asked` is the request that `answer` came from, so that words can be asked for the same prediction.
export function draw(place, answer, { collection, asked, signal }) {
  const { truth, context } = answer;
  place.replaceChildren(
    answer.notes.length ? el("ul", { class: "notes" }, answer.notes.map((note) => el("li", {}, note))) : "",
    el(
      "div",
      { class: "against" },
      el(
        "div",
        { class: "side" },
        read(context),
        context.page_id === null ? "" : reality(truth, collection),
      ),
      el(
        "section",
        { class: "expected", "aria-labelledby": "expected-title" },
        heading("expected-title", "guess", "★", "What the model expects"),
        el("p", { class: "soft" }, `The real chunks nearest to its prediction. ${wayOf(answer)}`),
        el("ol", { class: "candidates" }, answer.results.map((one) => candidate(one, answer.way, collection))),
      ),
    ),
    words(asked, answer, signal),
    answer.map ? drawMap(answer.map, collection) : "",
  );
}

function wayOf({ model, way }) {
  const said = [`Model ${model}`];
  if (way.reranked) said.push(`the best ${number(way.candidates)} were ordered anew by a reranker`);
  if (way.tower) said.push("chunks compared as the model's own tower has them");
  return `${said.join("; ")}.`;
}

function read({ texts, chunks }) {
  const earlier = texts.slice(0, -1);
  return el(
    "section",
    { class: "read", "aria-labelledby": "read-title" },
    heading("read-title", "", "■", "What the model has read"),
    earlier.length > 0 &&
      el(
        "details",
        {},
        el("summary", {}, earlier.length === 1 ? "1 chunk before" : `${earlier.length} chunks before`),
        earlier.map((text) => el("p", { class: "text" }, text)),
      ),
    el("p", { class: "text" }, texts.at(-1)),
    chunks > texts.length &&
      el("p", { class: "soft" }, `Of ${number(chunks)} chunks the last ${texts.length} are read.`),
  );
}

function heading(id, kind, sign, text) {
  return el("h2", { id }, el("span", { class: `sign ${kind}`, "aria-hidden": "true" }, sign), text);
}

function reality(truth, collection) {
  const head = heading("truth-title", "true", "◯", "What comes next");
  if (!truth) {
    const end = "The article ends here: nothing tells whether the expectation is right.";
    return el("section", { class: "truth", "aria-labelledby": "truth-title" }, head, el("p", { class: "soft" }, end));
  }
  const better = Math.sign(truth.copied_rank - truth.rank);
  const verdict = { 1: "The model came nearer.", 0: "No difference.", "-1": "Copying came nearer." }[better];
  return el(
    "section",
    { class: "truth", "aria-labelledby": "truth-title" },
    head,
    el(
      "p",
      { class: "rank" },
      el("strong", {}, ordinal(truth.rank)),
      ` of ${number(truth.among)} chunks by the prediction. Taking the last chunk itself for the prediction would `,
      "have put it ",
      el("strong", {}, ordinal(truth.copied_rank)),
      `. ${verdict}`,
    ),
    truth.section && el("h3", {}, truth.section),
    el("p", { class: "text" }, truth.text),
    el("p", { class: "parts" }, cosine(truth.cosine), open(truth, collection)),
  );
}

function candidate(one, way, collection) {
  return el(
    "li",
    { class: one.true_next ? "candidate right" : "candidate" },
    one.true_next && el("p", { class: "badge" }, "◯ This is the true next chunk"),
    el("h3", {}, one.title, under(one.section)),
    el("p", { class: "text" }, one.text),
    el(
      "p",
      { class: "parts" },
      way.reranked && bar("share", "share", one.score, `${number(100 * one.score)} %`, SHARE),
      one.dense !== null && cosine(one.dense),
      open(one, collection),
    ),
  );
}

function cosine(value) {
  return bar("cosine", "meaning", value, value.toFixed(2), "cosine to the predicted vector; the full bar is 1");
}

function open(one, collection) {
  return el(
    "a",
    { href: address(`article/${one.page_id}`, { at: one.position, collection }) },
    "Read it there",
    el("span", { class: "unseen" }, `: ${where(one.title, one.section)}, chunk ${one.position + 1}`),
  );
}

// -- a gist ------------------------------------------------------------------------------------------------

function words(asked, answer, signal) {
  const told = el("div", { class: "gists", "aria-live": "polite" });
  const put = el(
    "button",
    { type: "button", id: "put-into-words", "aria-keyshortcuts": "w", on: { click: decode } },
    "Put it into words ",
    el("kbd", { "aria-hidden": "true" }, "w"),
  );
  const place = el(
    "section",
    { class: "inwords", "aria-labelledby": "words-title" },
    el("h2", { id: "words-title" }, "In words"),
    el("p", { class: "soft" }, GIST),
    put,
    told,
  );
  return place;

  function decode() {
    if (put.disabled) return;
    put.disabled = true;
    const begun = performance.now();
    const busy = el("p", { class: "busy", "aria-live": "off" });
    const tick = () => {
      busy.textContent = `Looking for words … ${Math.round((performance.now() - begun) / 1000)} s`;
    };
    tick();
    const clock = setInterval(tick, 1000);
    told.replaceChildren(busy);
    const work = async () => {
      try {
        put.disabled = true;
        const body = { ...asked, map: false, decode: true, steps: 1 };
        const { gists, gist_notes } = await ask("/api/predict-next", { body, signal });
        told.replaceChildren(...(gists ?? []).map(gist), ...gist_notes.map((note) => el("p", { class: "soft" }, note)));
      } finally {
        clearInterval(clock);
        put.disabled = false;
      }
    };
    attempt(told, work, told);
  }
}

function gist(one) {
  const told = [`cosine ${one.cosine.toFixed(2)} to its vector`];
  if (one.to_truth !== null) told.push(`${one.to_truth.toFixed(2)} to the true next chunk's`);
  return el(
    "figure",
    { class: "gist" },
    el("figcaption", {}, el("span", { class: "badge" }, "Gist, not a text"), ` ${OF[one.of] ?? one.of}`),
    el("blockquote", {}, one.text),
    el("p", { class: "soft" }, `${told.join("; ")}. Names and numbers are invented.`),
  );
}
