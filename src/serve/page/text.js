// text.js - what the model wrote as nodes of the page: paragraphs, lists, code, tables, emphasis, links. Text never
// becomes markup: every node is made by name here and every string is put in as text. First of the files that page.c
// joins to one script.
"use strict";

function make(name, properties, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const sign = (name) => make("i", { class: `i-${name}`, "aria-hidden": "true" });

// One alternative a kind; repetition is bounded so that a hostile line costs no more than a long one.
const INLINE = new RegExp(
  [
    "(`+)([^`](?:[^\\n]{0,2000}?[^`])?)\\1(?!`)", // 1, 2: code
    "\\*\\*(?=\\S)([^\\n]{1,2000}?\\S|\\S)\\*\\*", // 3: strong
    "\\*(?=[^\\s*])([^*\\n]{1,2000})\\*", // 4: emphasis
    "(?<![\\p{L}\\p{N}_])_(?=\\S)([^_\\n]{1,2000})_(?![\\p{L}\\p{N}_])", // 5: emphasis
    "~~(?=\\S)([^~\\n]{1,2000})~~", // 6: struck out
    "!?\\[([^\\]\\n]{0,1000})\\]\\(([^()\\s]{1,2000})\\)", // 7, 8: link
    "(https?:\\/\\/[^\\s<>()[\\]\"'`*]{1,2000}[^\\s<>()[\\]\"'`*.,;:!?])", // 9: bare address
    "\\\\([\\\\`*_{}[\\]()#+\\-.!~>|])", // 10: escaped sign
  ].join("|"),
  "gu",
);
const DEPTH_MAX = 6;

// Only these go out of the page, and only when a person follows them.
function safeAddress(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

function linkOf(address, label) {
  const href = safeAddress(address);
  if (!href) return make("span", {}, label);
  return make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, label);
}

function putInline(into, text, depth = 0) {
  if (depth > DEPTH_MAX) {
    into.append(text);
    return;
  }
  let end = 0;
  const nested = (name, inner) => {
    const node = make(name);
    putInline(node, inner, depth + 1);
    into.append(node);
  };
  for (const m of text.matchAll(INLINE)) {
    if (m.index > end) into.append(text.slice(end, m.index));
    end = m.index + m[0].length;
    if (m[1] !== undefined) into.append(make("code", {}, m[2].length > 2 ? m[2].replace(/^ (.*) $/, "$1") : m[2]));
    else if (m[3] !== undefined) nested("strong", m[3]);
    else if (m[4] !== undefined) nested("em", m[4]);
    else if (m[5] !== undefined) nested("em", m[5]);
    else if (m[6] !== undefined) nested("s", m[6]);
    else if (m[8] !== undefined) into.append(linkOf(m[8], m[7] || m[8]));
    else if (m[9] !== undefined) into.append(linkOf(m[9], m[9]));
    else into.append(m[10]);
  }
  if (end < text.length) into.append(text.slice(end));
}

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]{0,100})$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;
const TABLE_RULE = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
  ITEM.test(line);

function codeBox(language, code) {
  const copy = make("button", { type: "button", class: "mini", onclick: () => copyText(code, copy) }, "Copy");
  return make("div", { class: "codebox" },
    make("div", { class: "bar-top" }, make("span", {}, language || "text"), copy),
    make("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${language || "text"}` },
      make("code", {}, code)));
}

function copyText(text, button) {
  const said = button.textContent;
  const say = (word) => {
    button.textContent = word;
    setTimeout(() => (button.textContent = said), 1500);
  };
  navigator.clipboard.writeText(text).then(() => say("Copied"), () => say("Not allowed"));
}

function takeFence(lines, at, into) {
  const [, marks, info] = FENCE.exec(lines[at]);
  const closing = new RegExp(`^ {0,3}\\${marks[0]}{${marks.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end++;
  into.append(codeBox(info.trim().split(/\s/)[0], lines.slice(at + 1, end).join("\n")));
  return end + 1;
}

function takeQuote(lines, at, into, depth) {
  const inner = [];
  while (at < lines.length && QUOTE.test(lines[at])) inner.push(lines[at++].replace(QUOTE, ""));
  const quote = make("blockquote");
  putBlocks(quote, inner, depth + 1);
  into.append(quote);
  return at;
}

function takeList(lines, at, into, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const list = make(ordered ? "ol" : "ul", ordered && mark.slice(0, -1) !== "1" ? { start: parseInt(mark, 10) } : {});
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length) break;
    if (/\d/.test(item[2]) !== ordered) break;
    const inner = [item[3]], margin = item[1].length + item[2].length + 1;
    for (at++; at < lines.length; at++) {
      const own = lines[at].match(/^\s*/)[0].length;
      if (lines[at].trim() === "") {
        const next = lines[at + 1] ?? "";
        if (next.match(/^\s*/)[0].length < 2 || next.trim() === "") break;
        inner.push("");
      } else if (own > indent.length + 1) inner.push(lines[at].slice(Math.min(own, margin)));
      else if (!begins(lines[at])) inner.push(lines[at]);
      else break;
    }
    const li = make("li");
    putBlocks(li, inner, depth + 1, true);
    list.append(li);
    if (lines[at]?.trim() === "" && ITEM.test(lines[at + 1] ?? "")) at++;
  }
  into.append(list);
  return at;
}

function cellsOf(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function takeTable(lines, at, into) {
  const row = (name, cells) => make("tr", {}, ...cells.map((cell) => {
    const node = make(name);
    putInline(node, cell);
    return node;
  }));
  const head = row("th", cellsOf(lines[at])), body = make("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|") && lines[at].trim(); at++)
    body.append(row("td", cellsOf(lines[at])));
  into.append(make("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    make("table", {}, make("thead", {}, head), body)));
  return at;
}

function takeParagraph(lines, at, into, tight) {
  const from = at;
  for (at++; at < lines.length && lines[at].trim() !== "" && !begins(lines[at]); at++);
  const node = tight && from === 0 ? into : make("p");
  lines.slice(from, at).forEach((line, i) => {
    if (i) node.append(make("br"));
    putInline(node, line.trim());
  });
  if (node !== into) into.append(node);
  return at;
}

function putBlocks(into, lines, depth = 0, tight = false) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at], heading = HEADING.exec(line);
    if (line.trim() === "") at++;
    else if (FENCE.test(line)) at = takeFence(lines, at, into);
    else if (heading) {
      const node = make(`h${Math.min(heading[1].length + 2, 5)}`);
      putInline(node, heading[2].replace(/[ \t]+#+[ \t]*$/, ""));
      into.append(node);
      at++;
    } else if (RULE.test(line)) {
      into.append(make("hr"));
      at++;
    } else if (depth < DEPTH_MAX && QUOTE.test(line)) at = takeQuote(lines, at, into, depth);
    else if (depth < DEPTH_MAX && ITEM.test(line)) at = takeList(lines, at, into, depth);
    else if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "")) at = takeTable(lines, at, into);
    else at = takeParagraph(lines, at, into, tight);
  }
}

// A text that grows: blocks that can change no more are left alone, only what follows the last safe blank line is made
// anew. Safe is a blank line outside a fence whose successor is not indented.
class GrowingText {
  constructor(into) {
    this.into = into;
    this.settled = 0; // characters that are done
    this.loose = []; // nodes of the rest
    this.shown = "";
  }

  show(text) {
    if (text === this.shown) return;
    if (!text.startsWith(this.shown.slice(0, this.settled))) {
      this.into.replaceChildren();
      this.settled = 0;
      this.loose = [];
    }
    this.shown = text;
    for (const node of this.loose) node.remove();
    const safe = GrowingText.boundary(text, this.settled);
    this.put(text.slice(this.settled, safe));
    this.settled = safe;
    const before = this.into.childNodes.length;
    this.put(text.slice(safe));
    this.loose = [...this.into.childNodes].slice(before);
  }

  put(text) {
    if (text) putBlocks(this.into, text.split("\n"));
  }

  static boundary(text, from) {
    let fence = null, safe = from, at = from;
    while (at < text.length) {
      const stop = text.indexOf("\n", at);
      if (stop < 0) break;
      const line = text.slice(at, stop), found = FENCE.exec(line);
      if (fence === null && found) fence = found[1];
      else if (fence !== null && line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) fence = null;
      if (fence === null && line.trim() === "" && stop + 1 < text.length && /\S/.test(text[stop + 1]) &&
          !/[-*+\d]/.test(text[stop + 1])) safe = stop + 1;
      at = stop + 1;
    }
    return safe;
  }
}
