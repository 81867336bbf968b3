// A flat map of vectors: what was read, what is expected, what does come, and the candidates, told apart by shapes as
// well as by colours.

import { address, el, number, ordinal, svg } from "./dom.js";

const HINT = "Point at a mark, or reach it with Tab, to read what it is.";
const NAME = "Map of the prediction; the table below says the same";
const EDGE = 34; // room around the outermost marks
const STAR = "M0 -12 L3.2 -4 L11.6 -3.7 L5 1.5 L7.3 9.7 L0 5 L-7.3 9.7 L-5 1.5 L-11.6 -3.7 L-3.2 -4 Z";
const KINDS = {
  candidate: "candidate, with its rank",
  context: "read by the model, in order",
  truth: "the true next chunk",
  prediction: "the prediction",
}; // in the order they are drawn: what matters most lies on top

export function drawMap({ explained, points }, collection) {
  const narrow = matchMedia("(max-width: 34rem)").matches;
  const [width, height] = narrow ? [360, 340] : [640, 420]; // so that marks are no smaller on a phone
  const placed = scaled(points, width, height);
  const said = el("p", { class: "said", "aria-live": "polite" }, HINT);
  const context = placed.filter((one) => one.what === "context");
  const prediction = placed.find((one) => one.what === "prediction");
  const plot = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": NAME, class: "map" },
    svg("rect", { class: "ground", x: 0.5, y: 0.5, width: width - 1, height: height - 1, rx: 10 }),
    svg("polyline", { class: "path", points: corners(context) }),
    context.length > 0 &&
      prediction &&
      svg("polyline", { class: "leap", points: corners([context.at(-1), prediction]) }),
    Object.keys(KINDS).flatMap((kind) =>
      placed.filter((one) => one.what === kind).map((one) => mark(one, context.indexOf(one) + 1, said, collection)),
    ),
  );
  const [first, second] = explained.map((share) => `${number(100 * share)} %`);
  return el(
    "section",
    { class: "mapped", "aria-labelledby": "map-title" },
    el("h2", { id: "map-title" }, "Map"),
    el(
      "p",
      { class: "soft" },
      `The vectors of all these, laid flat (PCA): the axes keep ${first} and ${second} of their variance, so `,
      "distances are rough.",
    ),
    el("ul", { class: "key" }, Object.keys(KINDS).filter((kind) => placed.some((one) => one.what === kind)).map(entry)),
    plot,
    said,
    el("details", {}, el("summary", {}, "The map as a table"), table(placed, context)),
  );
}

function corners(points) {
  return points.map((one) => `${one.px},${one.py}`).join(" ");
}

function entry(kind) {
  const sign = { viewBox: "-15 -15 30 30", width: 20, height: 20, "aria-hidden": "true", class: "map" };
  return el("li", {}, svg("svg", sign, shape(kind)), KINDS[kind]);
}

// Both axes by the same scale, y upwards, as large as the frame allows; `px` and `py` are in the frame's units.
function scaled(points, width, height) {
  const [xs, ys] = [points.map((one) => one.x), points.map((one) => one.y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((width - 2 * EDGE) / (right - left || 1), (height - 2 * EDGE) / (high - low || 1));
  return points.map((one) => ({
    ...one,
    px: Math.round(10 * (width / 2 + scale * (one.x - (left + right) / 2))) / 10,
    py: Math.round(10 * (height / 2 - scale * (one.y - (low + high) / 2))) / 10,
  }));
}

function mark(one, place, said, collection) {
  const told = describe(one, place);
  const tell = () => {
    said.textContent = told;
  };
  const inner = [svg("title", {}, told), shape(one.what), text(one, place)];
  const common = {
    class: "mark",
    transform: `translate(${one.px} ${one.py})`,
    "data-what": one.what,
    "aria-label": told,
    on: { focus: tell, pointerenter: tell },
  };
  if (one.page_id === null || one.position === null) return svg("g", { ...common, tabindex: 0, role: "img" }, inner);
  return svg("a", { ...common, href: address(`article/${one.page_id}`, { at: one.position, collection }) }, inner);
}

function describe(one, place) {
  const what = {
    context: `Read, ${ordinal(place)} of the context`,
    prediction: "The prediction",
    truth: `The true next chunk${one.rank === null ? "" : `, ${ordinal(one.rank)}`}`,
    candidate: `Candidate, ${one.rank === null ? "without a rank" : ordinal(one.rank)}`,
  }[one.what];
  return one.label && one.what !== "prediction" ? `${what}: ${one.label}` : what;
}

function shape(kind) {
  if (kind === "context") return svg("rect", { class: "context", x: -8, y: -8, width: 16, height: 16, rx: 2 });
  if (kind === "candidate") return svg("path", { class: "candidate", d: "M0 -10 L10 8 L-10 8 Z" });
  if (kind === "truth") return svg("circle", { class: "truth", r: 13 });
  return svg("path", { class: "prediction", d: STAR });
}

function text(one, place) {
  const told = { candidate: one.rank, truth: one.rank, context: place }[one.what] ?? null;
  if (told === null || told > 999) return null; // there is no room for more
  return svg("text", { y: one.what === "candidate" ? 6 : 4, "aria-hidden": "true" }, told);
}

function table(points, context) {
  const head = ["What", "Which", "x", "y"].map((one) => el("th", { scope: "col" }, one));
  const rows = points.map((one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, describe({ ...one, label: "" }, context.indexOf(one) + 1)),
      el("td", {}, one.what === "prediction" ? "" : one.label),
      el("td", { class: "n" }, one.x.toFixed(2)),
      el("td", { class: "n" }, one.y.toFixed(2)),
    ),
  );
  return el(
    "div",
    { class: "wide", role: "region", "aria-label": "The map as a table", tabindex: 0 },
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
}
