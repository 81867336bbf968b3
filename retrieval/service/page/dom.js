// Makes elements. Text only ever becomes a text node, so nothing a server or a reader says is read as markup.

const SVG = "http://www.w3.org/2000/svg"; // a name, never fetched

export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

// null, undefined and false leave an attribute or a child out; `on` holds listeners
function filled(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Spans count Unicode code points, JavaScript's strings count UTF-16 units: an emoji is one of those and two of these.
export function highlighted(text, spans) {
  const letters = Array.from(text);
  const nodes = [];
  let read = 0;
  for (const [start, stop] of spans) {
    nodes.push(letters.slice(read, start).join(""), el("mark", {}, letters.slice(start, stop).join("")));
    read = stop;
  }
  return [...nodes, letters.slice(read).join("")];
}

// A labelled bar; `share` is 0 to 1, `said` the number beside it, `why` what it means.
export function bar(label, kind, share, said, why) {
  const inner = el("span", { class: "fill" });
  inner.style.inlineSize = `${100 * Math.max(0, Math.min(1, share))}%`;
  return el(
    "span",
    { class: `part ${kind}`, title: why },
    el("span", { class: "label" }, label),
    el("span", { class: "bar", "aria-hidden": "true" }, inner),
    el("span", { class: "number" }, said),
  );
}

export function number(value, digits = 0) {
  return value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function ordinal(rank) {
  const tens = rank % 100;
  const ending = tens > 10 && tens < 14 ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[rank % 10] ?? "th");
  return `${number(rank)}${ending}`;
}

// "#/article/42?at=3": what is null, undefined or "" is left out
export function address(path, values = {}) {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") told.append(name, value);
  }
  const query = told.toString();
  return `#/${path}${query ? `?${query}` : ""}`;
}

export function under(section) {
  return section ? el("span", { class: "section" }, ` › ${section}`) : null;
}

export function where(title, section) {
  return section ? `${title}, ${section}` : title;
}
