// Chat with pictures: what has been said, the question being written, and settings.

import { getJson, streamChat } from "./api.js";
import { renderMarkdown } from "./markdown.js";
import { MemoryView } from "./memory.js";
import { splitWords, watchWords } from "./words.js";

const $ = (id) => document.getElementById(id);

const SAMPLES = [
  { file: "samples/form.png", name: "form", questions: ["Which track is given?", "Read the seat.", "agent?"] },
  { file: "samples/table.png", name: "table", questions: ["Lukas, Mon?", "Value of Dora for Mon?", "What is in row Tina and column Sat?"] },
];

const view = new MemoryView();
let messages = []; // as the server gets them
let pictures = []; // data URLs that go with the next question
let session = newSession();
let answering = null; // AbortController of the answer in progress

function newSession() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function setting(name) {
  return $("settings").elements[name].value.trim();
}

function say(text) {
  $("status").textContent = text;
}

// --- the log ------------------------------------------------------------------------------------

function addMessage(role, name) {
  $("welcome").hidden = true;
  const article = document.createElement("article");
  article.className = role;
  article.setAttribute("aria-label", name);
  $("log").append(article);
  return article;
}

function addQuestion(text, images) {
  const article = addMessage("user", "You");
  images.forEach((source, i) => {
    const image = document.createElement("img");
    image.src = source;
    image.alt = `picture ${i + 1}`;
    article.append(image);
  });
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  article.append(paragraph);
}

function addError(error) {
  const article = addMessage("error", "Error");
  article.setAttribute("role", "alert");
  article.textContent = error.message;
  if (error.status === 401) {
    toggle("settings", true);
    $("settings").elements.key.focus();
  }
}

// Follows the answer down, unless the reader has scrolled up.
function keepingAtEnd(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// --- pictures -----------------------------------------------------------------------------------

function readAsDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

async function addPictures(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) {
      addError(new Error(`${file.name} is not a picture.`));
      continue;
    }
    pictures.push(await readAsDataUrl(file));
  }
  showPictures();
  $("question").focus();
}

function showPictures() {
  $("pictures").replaceChildren(
    ...pictures.map((source, i) => {
      const item = document.createElement("li");
      const image = document.createElement("img");
      image.src = source;
      image.alt = `picture ${i + 1}`;
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `Remove picture ${i + 1}`);
      remove.addEventListener("click", () => {
        pictures.splice(i, 1);
        showPictures();
        $("question").focus();
      });
      item.append(image, remove);
      return item;
    }),
  );
  if (pictures.length) say(`${pictures.length} picture${pictures.length > 1 ? "s" : ""} to send`);
}

function watchPictures() {
  $("attach").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", async () => {
    await addPictures([...$("files").files]);
    $("files").value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    addPictures(files);
  });
  const over = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    addPictures([...event.dataTransfer.files]);
  });
}

// --- questions and answers ----------------------------------------------------------------------

function requestBody() {
  const body = { messages, session_id: session, kv: { trace: true } };
  for (const name of ["policy", "budget"]) if (setting(name)) body.kv[name] = setting(name);
  for (const name of ["temperature", "max_tokens"]) if (setting(name)) body[name] = Number(setting(name));
  return body;
}

function setAnswering(controller) {
  answering = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("log").setAttribute("aria-busy", controller !== null);
}

async function ask(text, images) {
  const content = images.map((url) => ({ type: "image_url", image_url: { url } }));
  messages.push({ role: "user", content: [...content, { type: "text", text }] });
  keepingAtEnd(() => addQuestion(text, images));
  $("log").scrollTop = $("log").scrollHeight;
  const controller = new AbortController();
  setAnswering(controller);
  say("Answering");
  let answer = "";
  let article = null;
  const show = () =>
    keepingAtEnd(() => {
      article ??= addMessage("assistant", "Answer");
      article.innerHTML = renderMarkdown(answer);
    });
  try {
    const end = await streamChat(requestBody(), setting("key"), controller.signal, (piece) => {
      answer += piece;
      show();
    });
    show();
    messages.push({ role: "assistant", content: answer });
    say(`Answer: ${answer}`);
    showWords(article, await remember(text, answer, end));
  } catch (error) {
    const stopped = error.name === "AbortError";
    // What was not answered is not part of the conversation; what was said of it before a stop is.
    if (answer) messages.push({ role: "assistant", content: answer });
    else messages.pop();
    if (stopped) say("Stopped");
    else keepingAtEnd(() => addError(error));
  } finally {
    setAnswering(null);
    $("question").focus();
  }
}

async function remember(question, answer, end) {
  const memory = await getJson(`conversations/${end.conversation_id}/memory`, setting("key"));
  const shown = messages.flatMap((message) =>
    Array.isArray(message.content) ? message.content.filter((part) => part.image_url).map((part) => part.image_url.url) : [],
  );
  const turn = { question, answer, pictures: shown, memory, timings: end.timings, usage: end.usage };
  view.add(turn);
  return turn;
}

// Lets the words of an answer show what they were read from.
function showWords(article, turn) {
  if (!turn.memory.media.some((span) => span.modality === "image")) return;
  const words = splitWords(article, turn.answer, turn.memory.answer).map((word) => ({ ...word, turn }));
  watchWords(article, words, {
    onWord: (word) => {
      view.showWord(word);
      // On a narrow screen the map is behind the chat, and what is said of the word with it.
      if (word && !$("memory").checkVisibility()) say($("cell").textContent);
    },
    onPick: (word) => {
      const again = word === view.pinned;
      view.pin(again ? null : word);
      if (again || $("memory").checkVisibility()) return;
      toggle("memory", true);
      $("show-memory").focus();
    },
  });
}

function submit() {
  const text = $("question").value.trim();
  if (answering || !text) return;
  const images = pictures;
  pictures = [];
  showPictures();
  $("question").value = "";
  fitQuestion();
  ask(text, images);
}

function fitQuestion() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`;
}

function newChat() {
  answering?.abort();
  messages = [];
  pictures = [];
  session = newSession();
  showPictures();
  for (const article of $("log").querySelectorAll("article")) article.remove();
  $("welcome").hidden = false;
  view.clear();
  $("question").focus();
}

// --- settings and the rest ----------------------------------------------------------------------

function toggle(id, on = $(id).hidden || !$(id).classList.contains("open")) {
  $(id).hidden = id === "settings" && !on;
  $(id).classList.toggle("open", on);
  $(`show-${id}`).setAttribute("aria-expanded", on);
}

async function addSample(sample) {
  const response = await fetch(sample.file);
  pictures = [await readAsDataUrl(await response.blob())];
  showPictures();
}

function showSamples() {
  for (const sample of SAMPLES) {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = sample.file;
    image.alt = `sample ${sample.name}`;
    item.append(image);
    for (const question of sample.questions) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = question;
      button.addEventListener("click", async () => {
        await addSample(sample);
        $("question").value = question;
        submit();
      });
      item.append(button);
    }
    $("samples").querySelector("ul").append(item);
  }
  $("samples").hidden = false;
}

async function connect() {
  try {
    const props = await getJson("props", setting("key"));
    const budget = props.kv.budget === "none" ? "no budget" : `budget ${props.kv.budget}`;
    $("model").textContent = `${props.model_alias} · policy ${props.kv.policy} · ${budget}`;
    $("model").title = props.model_description;
    $("attach").hidden = !props.modalities.vision;
    const fields = $("settings").elements;
    fields.policy.placeholder = props.kv.policy;
    if (props.kv.budget !== "none") fields.budget.placeholder = props.kv.budget;
    if (props.bundled_model && !$("samples").querySelector("li")) showSamples();
  } catch (error) {
    $("model").textContent = error.message;
    if (error.status === 401) {
      toggle("settings", true);
      $("settings").elements.key.focus();
    } else {
      setTimeout(connect, 2000); // The model may still be loading.
    }
  }
}

$("settings").elements.max_tokens.value = 512;
$("settings").elements.temperature.value = 0;
$("settings").elements.key.addEventListener("change", connect);
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("show-settings").addEventListener("click", () => toggle("settings"));
$("show-memory").addEventListener("click", () => toggle("memory"));
$("new-chat").addEventListener("click", newChat);
$("stop").addEventListener("click", () => answering?.abort());
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("question").addEventListener("input", fitQuestion);
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (answering) answering.abort();
  else if ($("memory").classList.contains("open")) toggle("memory", false);
  else view.pin(null);
});
watchPictures();
connect();
