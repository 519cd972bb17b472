// Markdown of an answer as HTML that is safe to show: a model may write anything.

import DOMPurify from "./vendor/purify.js";
import { marked } from "./vendor/marked.js";

marked.use({ gfm: true, breaks: true });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

export function renderMarkdown(text) {
  return DOMPurify.sanitize(marked.parse(text), { FORBID_TAGS: ["img", "style", "form", "input", "button"], FORBID_ATTR: ["style"] });
}
