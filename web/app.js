// Chat with pictures: the chat that is open, the question being written, and settings.

import { getJson, streamChat } from "./api.js";
import { ChatList } from "./chat_list.js";
import { $, button, element, say } from "./dom.js";
import * as log from "./log.js";
import { MemoryView } from "./memory.js";
import { dataUrl, pictureUrl, preparePicture } from "./pictures.js";
import * as store from "./store.js";
import { splitWords, watchWords } from "./words.js";

const SAMPLES = [
  { file: "samples/form.png", name: "form", questions: ["Which track is given?", "Read the seat.", "agent?"] },
  { file: "samples/table.png", name: "table", questions: ["Lukas, Mon?", "Value of Dora for Mon?", "What is in row Tina and column Sat?"] },
];
// What goes on with an answer that was cut or stopped. The server refuses messages that end with an assistant's, so
// the model is asked to; the cache goes on from the answer, and nothing is read again.
const GO_ON = "Continue exactly where you stopped, without repeating anything.";

const view = new MemoryView();
const fields = $("settings").elements;
const chats = new ChatList({ onOpen: openChat, onRename: renameChat, onRemove: removeChats });
let chat = makeChat(); // what is open
let turns = new Map(); // of it: what the cache held after answers, by their ids
let pictures = []; // { blob, note } that go with the next question
let preparing = Promise.resolve(); // until those that were added last are among them
let editing = null; // { at, draft }: the question that is asked anew, and what was in the box before
let answering = null; // AbortController of the answer in progress
let server = null; // its /props

function makeId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Messages are { id, role, text }, of users also { pictures, isAuto }, of assistants { thoughts, mark, canGoOn }.
// A draft is a question that was not answered. The id is the server's session too.
function makeChat() {
  return { id: makeId(), title: "", used: 0, messages: [], draft: null };
}

function makeQuestion(text, images, isAuto = false) {
  return { id: makeId(), role: "user", text, pictures: images, isAuto };
}

function setting(name) {
  return fields[name].value.trim();
}

function showError(error) {
  log.addError(error.message);
  if (error.status === 401) askForKey();
}

function askForKey() {
  toggle("settings", true);
  fields.key.focus();
}

// --- pictures -----------------------------------------------------------------------------------

async function addPictures(files) {
  if (!files.length) return;
  if (server && !server.modalities.vision) return log.addError("This model reads text only.");
  const maxPixels = (Number(setting("megapixels")) || Infinity) * 2 ** 20;
  const addAll = async () => {
    element("li", "Preparing…", $("pictures"));
    for (const file of files) await preparePicture(file, maxPixels).then((picture) => pictures.push(picture), showError);
    showPictures();
  };
  preparing = preparing.then(addAll);
  await preparing;
  $("question").focus();
}

function showPictures() {
  $("pictures").replaceChildren(
    ...pictures.map(({ blob, note }, i) => {
      const item = document.createElement("li");
      const image = element("img", undefined, item);
      image.src = pictureUrl(blob);
      image.alt = `picture ${i + 1}`;
      if (note) element("small", note, item);
      const remove = () => {
        pictures.splice(i, 1);
        showPictures();
        $("question").focus();
      };
      button("×", remove, item, `Remove picture ${i + 1}`);
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

// --- the question box ---------------------------------------------------------------------------

function getDraft() {
  const text = $("question").value;
  return text.trim() || pictures.length ? { text, pictures } : null;
}

function setDraft(draft) {
  $("question").value = draft?.text ?? "";
  pictures = [...(draft?.pictures ?? [])];
  showPictures();
  fitQuestion();
}

// A question that was not answered, before what has been written since.
function withDraft(question, draft) {
  if (!draft) return { text: question.text, pictures: question.pictures };
  return { text: `${question.text}\n\n${draft.text}`, pictures: [...question.pictures, ...draft.pictures] };
}

function fitQuestion() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`;
}

async function submit() {
  await preparing;
  const text = $("question").value.trim();
  if (answering || !text) return;
  const question = makeQuestion(text, pictures);
  const at = editing?.at ?? chat.messages.length;
  const draft = editing?.draft;
  setEditing(null);
  setDraft(draft);
  ask(question, at);
}

function setEditing(edit) {
  editing = edit;
  $("editing").hidden = edit === null;
}

// Puts a question of the chat into the box, to be asked anew.
function editQuestion(question) {
  if (answering) return;
  const at = chat.messages.indexOf(question);
  setEditing({ at, draft: editing ? editing.draft : getDraft() });
  setDraft(question);
  $("question").focus();
}

function cancelEditing() {
  const { draft } = editing;
  setEditing(null);
  setDraft(draft);
  $("question").focus();
}

// --- questions and answers ----------------------------------------------------------------------

async function requestBody(messages) {
  const toServer = async ({ role, text, pictures: images }) => {
    if (role === "assistant") return { role, content: text };
    const parts = await Promise.all(images.map(async ({ blob }) => ({ type: "image_url", image_url: { url: await dataUrl(blob) } })));
    return { role, content: [...parts, { type: "text", text }] };
  };
  const body = { messages: await Promise.all(messages.map(toServer)), session_id: chat.id, kv: { trace: true } };
  for (const name of ["policy", "budget"]) if (setting(name)) body.kv[name] = setting(name);
  for (const name of ["temperature", "max_tokens"]) if (setting(name)) body[name] = Number(setting(name));
  return body;
}

function setAnswering(controller) {
  answering = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("log").setAttribute("aria-busy", controller !== null);
  log.showWaiting(controller !== null);
}

// A question that asks to go on is not shown.
const countArticles = (messages) => messages.filter((message) => !message.isAuto).length;

function showQuestion(question) {
  if (!question.isAuto) log.addQuestion(question, () => editQuestion(question));
}

function endAnswer(shown, answer) {
  const at = chat.messages.indexOf(answer);
  const changes = { Regenerate: () => ask(chat.messages[at - 1], at - 1) };
  if (answer.canGoOn) changes.Continue = () => ask(makeQuestion(GO_ON, [], true), at + 1);
  let whole = answer.text;
  for (let i = at; chat.messages[i - 1].isAuto; i -= 2) whole = chat.messages[i - 2].text + whole;
  shown.end(answer, changes, whole);
}

// Asks a question as message `at` of the chat, in place of what is there from it on. Without an answer all is as it
// was before, and a question that is new is in the box again.
async function ask(question, at) {
  if (editing) cancelEditing();
  const asked = chat; // Another may be opened meanwhile.
  const isOpen = () => asked === chat;
  const before = asked.messages.slice(0, at);
  const replaced = asked.messages.slice(at);
  const isNew = !question.isAuto && !replaced.includes(question);
  log.clearErrors();
  const articles = log.takeArticles(countArticles(replaced));
  showQuestion(question);
  const controller = new AbortController();
  setAnswering(controller);
  $("log").scrollTop = $("log").scrollHeight;
  say("Answering");
  // If the page is left meanwhile, the question is kept.
  if (isNew) save({ ...asked, draft: question });

  const answer = { id: makeId(), role: "assistant", text: "", thoughts: "", mark: "", canGoOn: false };
  let shown = null;
  const show = () => {
    if (!isOpen()) return null;
    log.showWaiting(false);
    return (shown ??= new log.Answer(question.isAuto));
  };
  let end = null;
  let error = null;
  try {
    end = await streamChat(await requestBody([...before, question]), setting("key"), controller.signal, {
      onText: (piece) => {
        answer.text += piece;
        show()?.addText(piece);
      },
      onThoughts: (piece) => {
        answer.thoughts += piece;
        show()?.addThoughts(piece);
      },
    });
    const limit = end.usage ? ` of ${end.usage.completion_tokens} tokens` : "";
    if (end.choices[0].finish_reason === "length") answer.mark = `Cut at its limit${limit}.`;
  } catch (thrown) {
    error = thrown;
    answer.mark = error.name === "AbortError" ? "Stopped." : `Not complete: ${error.message}`;
  }
  answer.canGoOn = answer.mark !== "";
  if (answering === controller) setAnswering(null);

  if (end || answer.text) {
    asked.messages = [...before, question, answer];
    if (isOpen()) endAnswer(show(), answer);
    if (isOpen()) say(`${answer.mark || "Answer:"} ${answer.text}`);
    save(asked);
    for (const { id } of replaced) forgetTurn(asked, id);
    if (end) await remember(asked, answer, shown, end);
    else if (isOpen()) showTurns();
  } else if (isOpen()) {
    log.takeArticles(countArticles([question]) + (shown ? 1 : 0));
    log.restoreArticles(articles);
    if (isNew && replaced.length) {
      setEditing({ at, draft: getDraft() });
      setDraft(question);
    } else if (isNew) {
      setDraft(withDraft(question, getDraft()));
    }
    if (error.name === "AbortError") say("Stopped");
    else showError(error);
  } else if (isNew) {
    asked.draft = withDraft(question, asked.draft);
    save(asked);
  }
  if (isOpen() && error?.status !== 401) $("question").focus();
}

// --- what the cache held ------------------------------------------------------------------------

// How many answers' memories are being fetched.
let fetching = 0;

function addFetching(n) {
  fetching += n;
  $("memory").setAttribute("aria-busy", fetching > 0);
}

async function remember(asked, answer, shown, end) {
  addFetching(1);
  try {
    const memory = await getJson(`conversations/${end.conversation_id}/memory`, setting("key"));
    const turn = { memory, timings: end.timings, usage: end.usage };
    keep(asked, () => store.putMemory(asked.id, answer.id, turn));
    if (asked !== chat) return;
    turns.set(answer.id, turn);
    showTurns();
    const shownTurn = view.turns.find(({ id }) => id === answer.id);
    if (shownTurn) showWords(shown.content, shownTurn);
  } catch (error) {
    if (asked === chat) $("memory-problem").textContent = `The memory after the last answer is not available: ${error.message}`;
  } finally {
    addFetching(-1);
  }
}

function forgetTurn(asked, id) {
  if (asked === chat) turns.delete(id);
  store.deleteMemory(asked.id, id).catch(() => {});
}

function showTurns() {
  const seen = [];
  const shown = [];
  chat.messages.forEach((message, i) => {
    if (message.pictures) seen.push(...message.pictures.map((picture) => pictureUrl(picture.blob)));
    const turn = turns.get(message.id);
    if (turn) shown.push({ ...turn, id: message.id, question: chat.messages[i - 1].text, answer: message.text, pictures: [...seen] });
  });
  $("memory-problem").textContent = "";
  view.setTurns(shown);
}

// Lets the words of an answer show what they were read from.
function showWords(content, turn) {
  if (!turn.memory.media.some((span) => span.modality === "image")) return;
  const words = splitWords(content, turn.answer, turn.memory.answer).map((word) => ({ ...word, turn }));
  watchWords(content, words, {
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

// --- chats that are kept ------------------------------------------------------------------------

let isFull = false;

// Does it unless chats are not to be kept; says once if the browser does not do it.
async function keep(kept, put) {
  if (!fields.keep.checked || kept.isRemoved) return;
  try {
    await put();
  } catch (error) {
    if (!isFull) log.addError(`This browser does not keep the chat: ${error.message}`);
    isFull = true;
  }
}

async function save(saved) {
  saved.used = Date.now();
  if (saved.id === chat.id) sessionStorage.setItem("chat", chat.id);
  await keep(saved, () => store.putChat(saved));
  chats.refresh(chat.id);
}

// Keeps what is open before it makes way.
function leaveChat() {
  answering?.abort();
  setAnswering(null);
  chat.draft = editing ? editing.draft : getDraft();
  setEditing(null);
  if (chat.messages.length || chat.draft) save(chat);
}

function enterChat(opened, memories) {
  chat = opened;
  turns = memories;
  sessionStorage.setItem("chat", chat.id); // what is open after a reload
  log.clearLog();
  setDraft(chat.draft);
  chat.draft = null;
  const contents = new Map();
  chat.messages.forEach((message, i) => {
    if (message.role === "user") return showQuestion(message);
    const shown = new log.Answer(chat.messages[i - 1].isAuto);
    if (message.thoughts) shown.addThoughts(message.thoughts);
    endAnswer(shown, message);
    contents.set(message.id, shown.content);
  });
  showTurns();
  for (const turn of view.turns) showWords(contents.get(turn.id), turn);
  $("log").scrollTop = $("log").scrollHeight;
  chats.refresh(chat.id);
}

function newChat() {
  leaveChat();
  enterChat(makeChat(), new Map());
  $("question").focus();
}

async function openChat(id) {
  if (id === chat.id) return;
  leaveChat();
  try {
    const opened = await store.getChat(id);
    if (opened) enterChat(opened, await store.getMemories(id));
  } catch (error) {
    log.addError(`The chat cannot be opened: ${error.message}`);
  }
}

async function renameChat(id, title) {
  if (id === chat.id) chat.title = title;
  await store.putChat({ ...(await store.getChat(id)), title });
}

async function removeChats(ids) {
  if (ids.includes(chat.id)) {
    chat.isRemoved = true;
    newChat();
  }
  for (const id of ids) await store.deleteChat(id);
  await chats.refresh();
  $("new-chat").focus();
}

// --- settings and the rest ----------------------------------------------------------------------

function toggle(id, on = $(id).hidden || (id === "memory" && !$(id).classList.contains("open"))) {
  const other = { settings: "chats", chats: "settings" }[id];
  if (on && other) toggle(other, false);
  $(id).hidden = id !== "memory" && !on;
  $(id).classList.toggle("open", on);
  $(`show-${id}`).setAttribute("aria-expanded", on);
  if (id === "chats") chats.refresh();
}

async function addSample(sample) {
  const response = await fetch(sample.file);
  pictures = [];
  await addPictures([await response.blob()]);
}

function showSamples() {
  for (const sample of SAMPLES) {
    const item = document.createElement("li");
    const image = element("img", undefined, item);
    image.src = sample.file;
    image.alt = `sample ${sample.name}`;
    for (const question of sample.questions) {
      const askIt = async () => {
        await addSample(sample);
        $("question").value = question;
        submit();
      };
      button(question, askIt, item);
    }
    $("samples").querySelector("ul").append(item);
  }
  $("samples").hidden = false;
}

// What answers are given with: the server's policy and budget, or those of the settings.
function showModel() {
  const { model_alias: name, model_description: description, kv } = server;
  const policies = kv.policies ?? [];
  const chosen = policies.find((policy) => policy.name === setting("policy"));
  const policy = chosen?.name ?? kv.policy;
  const budget = setting("budget") || (chosen && !chosen.evicts ? "none" : kv.budget);
  const ofSettings = chosen || setting("budget") ? " (settings)" : "";
  $("model").textContent = `${name} · policy ${policy} · ${budget === "none" ? "no budget" : `budget ${budget}`}${ofSettings}`;
  $("model").title = description;
  $("policy-summary").textContent = chosen?.summary ?? policies.find((known) => known.name === kv.policy.split(":")[0])?.summary ?? "";
  if (kv.budget !== "none") fields.budget.placeholder = kv.budget;
}

function fillPolicies() {
  const chosen = fields.policy.value || readSettings().policy;
  const names = (server.kv.policies ?? []).map((policy) => policy.name);
  fields.policy.replaceChildren(new Option(`the server's: ${server.kv.policy}`, ""), ...names.map((name) => new Option(name, name)));
  fields.policy.value = names.includes(chosen) ? chosen : "";
}

async function connect() {
  try {
    server = await getJson("props", setting("key"));
    document.body.classList.toggle("vision", server.modalities.vision);
    fillPolicies();
    showModel();
    if (server.bundled_model && !$("samples").querySelector("li")) showSamples();
  } catch (error) {
    $("model").textContent = error.message;
    if (error.status === 401) askForKey();
    else setTimeout(connect, 2000); // The model may still be loading.
  }
}

const SETTINGS = ["policy", "budget", "temperature", "max_tokens", "megapixels"];

function readSettings() {
  try {
    return JSON.parse(localStorage.getItem("settings")) ?? {};
  } catch {
    return {};
  }
}

function watchSettings() {
  const kept = readSettings();
  for (const name of SETTINGS) if (name in kept) fields[name].value = kept[name];
  fields.keep.checked = kept.keep ?? true;
  // Only until this tab is closed.
  fields.key.value = sessionStorage.getItem("key") ?? "";
  $("settings").addEventListener("change", ({ target }) => {
    if (target === fields.key) {
      sessionStorage.setItem("key", setting("key"));
      connect();
      return;
    }
    const values = Object.fromEntries(SETTINGS.map((name) => [name, setting(name)]));
    localStorage.setItem("settings", JSON.stringify({ ...values, keep: fields.keep.checked }));
    if (server) showModel();
  });
  $("settings").addEventListener("submit", (event) => event.preventDefault());
}

watchSettings();
watchPictures();
$("show-settings").addEventListener("click", () => toggle("settings"));
$("show-chats").addEventListener("click", () => toggle("chats"));
$("show-memory").addEventListener("click", () => toggle("memory"));
$("new-chat").addEventListener("click", newChat);
$("stop").addEventListener("click", () => answering?.abort());
$("cancel-editing").addEventListener("click", cancelEditing);
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
  else if (editing) cancelEditing();
  else if ($("memory").classList.contains("open")) toggle("memory", false);
  else view.pin(null);
});
connect();
const last = sessionStorage.getItem("chat");
if (last) openChat(last);
