// The words of an answer, each of which knows the tokens that it came of.

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });

function textNodes(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  return nodes.filter((node) => !node.parentElement.closest("button"));
}

// Puts each word of a rendered answer into a span; returns the words: { text, tokens, span }.
// `answer` is its text, which the texts of `tokens` end: of a long answer only the last are there.
// Markdown leaves characters out but changes no order, so words are looked for one after the other;
// one that is not found, or has no tokens, stays as it is.
export function splitWords(article, answer, tokens) {
  const words = [];
  const known = tokens.reduce((length, token) => length + token.text.length, 0);
  let tokenBegin = answer.length - known;
  const places = tokens.map((token) => {
    const begin = tokenBegin;
    tokenBegin += token.text.length;
    return { token, begin, end: tokenBegin };
  });
  let at = 0;
  for (const node of textNodes(article)) {
    const parts = [...segmenter.segment(node.data)].map(({ segment, isWordLike }) => {
      const begin = isWordLike ? answer.indexOf(segment, at) : -1;
      if (begin < 0) return segment;
      at = begin + segment.length;
      const of = places.filter((place) => place.begin < at && place.end > begin).map((place) => place.token);
      if (of.length === 0) return segment;
      const span = document.createElement("span");
      span.className = "word";
      span.textContent = segment;
      words.push({ text: segment, tokens: of, span });
      return span;
    });
    node.replaceWith(...parts);
  }
  return words;
}

// Tells of the word that the pointer or the focus is at: onWord(word or null), and onPick(word) when
// it is clicked or entered. The answer is one stop of the Tab key; arrow keys go from word to word.
export function watchWords(article, words, { onWord, onPick }) {
  if (words.length === 0) return;
  const wordOf = (target) => words.find((word) => word.span === target) ?? null;
  const makeStop = (word) => words.forEach(({ span }) => (span.tabIndex = span === word.span ? 0 : -1));
  makeStop(words[0]);
  article.addEventListener("pointerover", (event) => onWord(wordOf(event.target)));
  article.addEventListener("pointerleave", () => onWord(null));
  article.addEventListener("focusin", (event) => {
    const word = wordOf(event.target);
    if (!word) return;
    makeStop(word);
    onWord(word);
  });
  article.addEventListener("focusout", () => onWord(null));
  article.addEventListener("click", (event) => {
    const word = wordOf(event.target);
    if (word && !event.target.closest("a")) onPick(word);
  });
  article.addEventListener("keydown", (event) => {
    const at = words.indexOf(wordOf(event.target));
    if (at < 0) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: words.length - 1 }[event.key];
    if (to !== undefined) words[Math.min(Math.max(to, 0), words.length - 1)].span.focus();
    else if (event.key === "Enter") onPick(words[at]);
    else return;
    event.preventDefault();
  });
}
