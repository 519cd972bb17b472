// The page's own elements, found once: before anything that a model wrote is among them.

const elements = new Map([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

export const $ = (id) => elements.get(id);

export function element(name, text, parent, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  parent?.append(made);
  return made;
}

export function button(text, onClick, parent, label) {
  const made = element("button", text, parent);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", () => onClick(made));
  return made;
}

// A button that asks once more before it does what cannot be undone.
export function buttonWithDoubt(text, onClick, parent, label) {
  const made = button(text, () => (made.textContent === text ? doubt(true) : onClick()), parent, label);
  const doubt = (on) => {
    made.textContent = on ? "Really?" : text;
    if (label) made.setAttribute("aria-label", on ? `Really? ${label}` : label);
  };
  made.addEventListener("blur", () => doubt(false));
  return made;
}

// Says it to screen readers.
export function say(text) {
  $("status").textContent = text;
}

export async function copyText(text, source) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers have no clipboard for pages that come from another machine without TLS.
    const box = element("textarea", text, document.body, "hidden-text");
    box.select();
    document.execCommand("copy");
    box.remove();
    source.focus();
  }
  const name = source.textContent;
  source.textContent = "Copied";
  say("Copied");
  setTimeout(() => (source.textContent = name), 1500);
}
