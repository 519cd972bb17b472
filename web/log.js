// The log: questions, answers while they come and when they are whole, and what went wrong.

import { $, button, copyText, element } from "./dom.js";
import { MarkdownStream, renderMarkdown } from "./markdown.js";
import { pictureUrl } from "./pictures.js";

const PAUSE_MS = 100; // between renderings of an answer; frames in between would only cost what the model needs
const PAUSE_FACTOR = 20; // and rendering takes at most a twentieth of the time

// Follows the answer down, unless the reader has scrolled up.
export function keepingAtEnd(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function addArticle(role, name) {
  $("welcome").hidden = true;
  const article = element("article", undefined, $("log"), role);
  article.setAttribute("aria-label", name);
  return article;
}

function addActions(article) {
  return element("div", undefined, article, "actions");
}

// Removes the last `n` articles; gives what restoreArticles() puts back.
export function takeArticles(n) {
  const articles = [...$("log").querySelectorAll(":scope > article")];
  const taken = articles.slice(articles.length - n);
  taken.forEach((article) => article.remove());
  return taken;
}

export function restoreArticles(articles) {
  $("log").append(...articles);
  $("welcome").hidden = $("log").querySelector(":scope > article") !== null;
}

export function clearErrors() {
  $("log").querySelectorAll(":scope > .error").forEach((error) => error.remove());
}

export function clearLog() {
  clearErrors();
  showWaiting(false);
  takeArticles(Infinity);
  $("welcome").hidden = false;
}

export function addError(text) {
  keepingAtEnd(() => element("div", text, $("log"), "error").setAttribute("role", "alert"));
}

export function addQuestion({ text, pictures }, onEdit) {
  const article = addArticle("user", "You");
  pictures.forEach((picture, i) => {
    const image = element("img", undefined, article);
    image.src = pictureUrl(picture.blob);
    image.alt = `picture ${i + 1}`;
  });
  element("p", text, article);
  const actions = addActions(article);
  button("Copy", (pressed) => copyText(text, pressed), actions, "Copy question");
  button("Edit", onEdit, actions, "Edit question").className = "changes";
}

let waiting = null; // { sign, timer } until the first words of an answer come

export function showWaiting(on) {
  clearInterval(waiting?.timer);
  waiting?.sign.remove();
  waiting = null;
  if (!on) return;
  const sign = element("p", "Reading ", $("log"), "waiting");
  const time = element("span", "", sign);
  const begin = performance.now();
  const timer = setInterval(() => (time.textContent = `${Math.round((performance.now() - begin) / 1000)} s`), 1000);
  waiting = { sign, timer };
}

// What is wider than the screen is scrolled in its own box, by keyboard too.
function watchWidth(content) {
  const boxes = content.querySelectorAll("pre, table");
  const check = () => boxes.forEach((box) => (box.scrollWidth > box.clientWidth ? (box.tabIndex = 0) : box.removeAttribute("tabindex")));
  if (boxes.length) new ResizeObserver(check).observe(content);
}

function addCodeButtons(content) {
  for (const code of content.querySelectorAll("pre")) {
    const box = document.createElement("div");
    box.className = "code";
    code.replaceWith(box);
    button("Copy", (pressed) => copyText(code.textContent, pressed), box, "Copy code");
    box.append(code);
  }
}

export class Answer {
  // `goesOn`: it goes on with the one before.
  constructor(goesOn) {
    this.article = addArticle("assistant", goesOn ? "Answer, continued" : "Answer");
    this.article.classList.toggle("goes-on", goesOn);
    this.thoughts = null;
    this.content = element("div", undefined, this.article, "content");
    this.stream = new MarkdownStream(this.content);
    this.scheduled = false;
    this.ended = false;
    this.pause = 0;
  }

  addText(piece) {
    if (this.thoughts) this.thoughts.firstChild.textContent = "Thoughts";
    this.stream.add(piece);
    if (!this.scheduled) setTimeout(() => requestAnimationFrame(() => this.draw()), this.pause);
    this.scheduled = true;
  }

  addThoughts(piece) {
    if (!this.thoughts) {
      this.thoughts = element("details", undefined, undefined, "thoughts");
      element("summary", "Thinking…", this.thoughts);
      element("div", "", this.thoughts);
      this.article.prepend(this.thoughts);
    }
    this.thoughts.lastChild.append(piece);
  }

  draw() {
    this.scheduled = false;
    if (this.ended) return;
    const begin = performance.now();
    keepingAtEnd(() => this.stream.render());
    this.pause = Math.max(PAUSE_MS, PAUSE_FACTOR * (performance.now() - begin));
  }

  // The answer is `message`, and may be changed by what is in `changes`: { name: what to do }. `whole` is the text
  // with that of the answers that it goes on with.
  end({ text, mark }, changes, whole) {
    this.ended = true;
    if (this.thoughts) this.thoughts.firstChild.textContent = "Thoughts";
    keepingAtEnd(() => {
      this.content.innerHTML = renderMarkdown(text);
      addCodeButtons(this.content);
      watchWidth(this.content);
      if (mark) element("p", mark, this.article, "mark");
      const actions = addActions(this.article);
      button("Copy", (pressed) => copyText(whole, pressed), actions, "Copy answer");
      for (const [name, change] of Object.entries(changes)) button(name, change, actions).className = "changes last-only";
    });
  }
}
