// The little Markdown that our reports are written in, as elements: headings, lists, tables, code, bold. Nothing else
// is read, links and HTML least of all: they stay the text they are.

import { el } from "./dom.js";

const NUMERIC = /^[\s\d.,+\-–×%*()≥≤:to]*$/; // figures, intervals ("-.004 to +.024"), and empty cells

export function rendered(source) {
  const lines = source.replaceAll("\r", "").split("\n");
  const nodes = [];
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const takes = (test) => {
      const begun = at;
      while (at < lines.length && test(lines[at])) at += 1;
      return lines.slice(begun, at);
    };
    if (!line.trim()) {
      at += 1;
    } else if (line.startsWith("```")) {
      at += 1;
      nodes.push(el("pre", { tabindex: 0 }, el("code", {}, takes((one) => !one.startsWith("```")).join("\n"))));
      at += 1;
    } else if (line.startsWith("|")) {
      nodes.push(table(takes((one) => one.startsWith("|")).map(cells)));
    } else if (line.startsWith("#")) {
      const depth = line.match(/^#+/)[0].length;
      nodes.push(el(`h${Math.min(6, depth + 1)}`, {}, inline(line.slice(depth).trim())));
      at += 1;
    } else if (line.startsWith("- ")) {
      nodes.push(el("ul", {}, takes((one) => one.startsWith("- ")).map((one) => el("li", {}, inline(one.slice(2))))));
    } else {
      const told = takes((one) => one.trim() && !/^(\||#|- |```)/.test(one));
      nodes.push(el("p", {}, told.flatMap((one) => [...inline(one.trimEnd()), one.endsWith("  ") ? el("br") : " "])));
    }
  }
  return nodes;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function table(rows) {
  const ruled = rows[1]?.every((cell) => /^:?-+:?$/.test(cell));
  const [head, body] = ruled ? [rows[0], rows.slice(2)] : [null, rows];
  const titled = (cell, place) => el("th", { scope: "col", class: place > 0 && "n" }, inline(cell));
  const filled = (cell, place) =>
    place ? el("td", { class: NUMERIC.test(cell) && "n" }, inline(cell)) : el("th", { scope: "row" }, inline(cell));
  return el(
    "div",
    { class: "wide", role: "region", "aria-label": "Table", tabindex: 0 },
    el(
      "table",
      {},
      head && el("thead", {}, el("tr", {}, head.map(titled))),
      el("tbody", {}, body.map((row) => el("tr", {}, row.map(filled)))),
    ),
  );
}

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (/^\*\*[^*]+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    if (/^`[^`]+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    return part;
  });
}
