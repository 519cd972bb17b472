// Markdown of an answer as HTML that is safe to show: a model may write anything.

import DOMPurify from "./vendor/purify.js";
import { marked } from "./vendor/marked.js";

marked.use({ gfm: true, breaks: true, renderer: { checkbox: ({ checked }) => (checked ? "☑ " : "☐ ") } });

// Nothing that the page or its forms could take for a part of their own: no ids, names, classes, roles or controls.
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a abbr b blockquote br caption cite code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i ins kbd li mark ol".split(" "),
    ..."p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul var #text".split(" "),
  ],
  ALLOWED_ATTR: ["align", "colspan", "href", "rowspan", "start", "title"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

// Lines on which the parser takes seconds and more: of 50,000 asterisks, or of lists in hundreds of lists.
const ENDLESS = /[^\n]{20000}|^ {100,}([-*+]|\d+[.)]) /m;

const escaped = (text) => `<pre>${text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`)}</pre>`;

// What `make` gives of a text, made safe; the text as it is where the parser would give up, as on quotes in
// thousands of quotes.
function safeHtml(text, make) {
  if (ENDLESS.test(text)) return escaped(text);
  try {
    return DOMPurify.sanitize(make(text), ALLOWED);
  } catch {
    return escaped(text);
  }
}

export function renderMarkdown(text) {
  return safeHtml(text, (all) => marked.parse(all));
}

const rawLength = (tokens) => tokens.reduce((length, token) => length + token.raw.length, 0);

// An answer that is being written: blocks before the last are parsed once, and only the last, which may still
// change, at each call of render(). Links that are defined elsewhere, and lists that a blank line makes loose,
// come right when the whole is rendered in the end.
export class MarkdownStream {
  constructor(parent) {
    this.text = ""; // of the last block
    this.last = document.createElement("div");
    this.last.className = "last-block";
    parent.append(this.last);
  }

  add(piece) {
    this.text += piece.replaceAll("\r", "");
  }

  render() {
    this.last.innerHTML = safeHtml(this.text, (text) => {
      const [done, open] = this.split(marked.lexer(text));
      if (done.length) this.last.insertAdjacentHTML("beforebegin", safeHtml(text.slice(0, rawLength(done)), () => marked.parser(done)));
      this.text = text.slice(rawLength(done));
      return marked.parser(open);
    });
  }

  // The blocks that are complete, and the others. Of a list, all items but the last are.
  split(tokens) {
    const at = tokens.findLastIndex((token) => token.type !== "space");
    if (at < 0 || rawLength(tokens) !== this.text.length) return [[], tokens];
    const last = tokens[at];
    const done = tokens.slice(0, at);
    const after = tokens.slice(at + 1);
    if (last.type !== "list" || last.items.length < 2) return [done, [last, ...after]];
    const items = last.items.slice(0, -1);
    const raw = last.raw.slice(0, rawLength(items));
    const start = last.ordered ? last.start + items.length : "";
    return [
      [...done, { ...last, raw, items }],
      [{ ...last, raw: last.raw.slice(raw.length), items: last.items.slice(-1), start }, ...after],
    ];
  }
}
