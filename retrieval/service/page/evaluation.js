// The last evaluations that the server keeps: their tables and plots.

import { ask, attempt, fetched, hasKey } from "./api.js";
import { address, el } from "./dom.js";
import { rendered } from "./markdown.js";

const HOW = "Make one: lookahead evaluate next, or lookahead evaluate search.";

export function show(place, first, page) {
  let route = first;
  let running = new AbortController();
  const kinds = el("nav", { class: "kinds", "aria-label": "Evaluations" });
  const trouble = el("div");
  const body = el("div", { class: "report" });
  place.append(el("header", { class: "head" }, el("h1", {}, "The last evaluation")), kinds, trouble, body);
  page.titled("Evaluation");
  load();
  return {
    update(next) {
      route = next;
      load();
    },
    keys: { Escape: () => (page.go(page.searched), true) },
    close: () => running.abort(),
  };

  function load() {
    running.abort();
    running = new AbortController();
    const { signal } = running;
    const collection = route.params.get("collection");
    const work = async () => {
      const told = await ask("/api/evaluations", { params: { collection }, signal });
      trouble.replaceChildren();
      const chosen = told.evaluations.find((one) => one.kind === route.params.get("kind")) ?? told.evaluations[0];
      kinds.replaceChildren(
        ...told.evaluations.map((one) =>
          el(
            "a",
            {
              href: address("evaluation", { collection, kind: one.kind }),
              "aria-current": one === chosen && "page",
            },
            one.kind,
          ),
        ),
      );
      if (chosen) await report(told.collection, chosen, signal);
      else body.replaceChildren(el("p", {}, `No evaluation of ${told.collection} is kept yet. ${HOW}`));
    };
    attempt(trouble, work, body);
  }

  async function report(collection, one, signal) {
    const at = (file) => `/api/evaluations/${[collection, one.kind, file].map(encodeURIComponent).join("/")}`;
    const named = (ending) => one.files.filter((file) => file.endsWith(ending));
    const texts = await Promise.all(named(".md").map(async (file) => (await fetched(at(file), { signal })).text()));
    const data = texts.length ? [] : await Promise.all(named(".json").map((file) => ask(at(file), { signal })));
    const plots = await Promise.all(named(".png").map((file) => plot(file, at(file), signal)));
    const made = new Date(one.made).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" });
    body.replaceChildren(
      el(
        "p",
        { class: "soft" },
        `Collection ${collection}, ${one.kind}, made `,
        el("time", { datetime: one.made }, made),
      ),
      el("pre", { tabindex: 0 }, el("code", {}, one.command)),
      ...plots,
      ...texts.flatMap(rendered),
      ...data.map((told) => el("pre", { tabindex: 0 }, el("code", {}, JSON.stringify(told, null, 2)))),
    );
  }

  async function plot(file, address, signal) {
    const named = `Plot: ${file.replace(/\.png$/, "").replaceAll(/[-_]/g, " ")}`;
    const lost = () => figure.replaceChildren(el("p", { class: "trouble" }, `${file} could not be shown.`));
    const picture = hasKey()
      ? await painted(address, named, signal)
      : el("img", { src: address, alt: named, on: { error: lost } });
    const figure = el("figure", { class: "plot" }, picture, el("figcaption", {}, named));
    return figure;
  }
}

// An <img> cannot send a key, so behind one the plot is fetched and painted.
async function painted(address, named, signal) {
  const picture = await createImageBitmap(await (await fetched(address, { signal })).blob());
  const canvas = el("canvas", { width: picture.width, height: picture.height, role: "img", "aria-label": named });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas;
}
