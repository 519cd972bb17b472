// Chats that are kept in this browser, in IndexedDB: what was said (with pictures, as blobs), and what the cache held
// after each answer, which is large and read only if its chat is opened. Where there is no IndexedDB, or it is full,
// nothing is kept.

let database = null;

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function open() {
  database ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("rkv", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("chats", { keyPath: "id" });
      request.result.createObjectStore("memories", { keyPath: ["chat", "answer"] });
    };
    done(request).then(resolve, reject);
  });
  return database;
}

async function store(name, mode) {
  return (await open()).transaction(name, mode).objectStore(name);
}

const ofChat = (id) => IDBKeyRange.bound([id], [id, []]);

// The last used first.
export async function listChats() {
  return (await done((await store("chats", "readonly")).getAll())).sort((a, b) => b.used - a.used);
}

export async function getChat(id) {
  return done((await store("chats", "readonly")).get(id));
}

export async function putChat(chat) {
  await done((await store("chats", "readwrite")).put(chat));
}

export async function deleteChat(id) {
  await done((await store("chats", "readwrite")).delete(id));
  await done((await store("memories", "readwrite")).delete(ofChat(id)));
}

// A Map from answers' ids to what is shown of the cache after them.
export async function getMemories(chat) {
  const entries = await done((await store("memories", "readonly")).getAll(ofChat(chat)));
  return new Map(entries.map(({ answer, turn }) => [answer, turn]));
}

export async function putMemory(chat, answer, turn) {
  await done((await store("memories", "readwrite")).put({ chat, answer, turn }));
}

export async function deleteMemory(chat, answer) {
  await done((await store("memories", "readwrite")).delete([chat, answer]));
}
