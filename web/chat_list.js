// The list of the chats that are kept.

import { $, button, buttonWithDoubt, element } from "./dom.js";
import { listChats } from "./store.js";

function shorten(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}

// The name given to it, or its first question.
function titleOf({ title, messages, draft }) {
  return title || shorten(messages[0]?.text || draft?.text || "") || "Pictures";
}

export class ChatList {
  // onOpen(id), onRename(id, title), onRemove(ids)
  constructor(handlers) {
    this.handlers = handlers;
    this.current = "";
  }

  async refresh(current = this.current) {
    this.current = current;
    const list = $("chat-list");
    if ($("chats").hidden || list.querySelector("input")) return;
    const chats = await listChats().catch(() => []);
    $("no-chats").hidden = chats.length > 0;
    list.replaceChildren(...chats.map((chat) => this.makeItem(chat)));
    $("remove-all").replaceChildren();
    if (chats.length < 2) return;
    buttonWithDoubt("Delete all", () => this.handlers.onRemove(chats.map((chat) => chat.id)), $("remove-all"), "Delete all chats");
  }

  makeItem(chat) {
    const item = document.createElement("li");
    const title = titleOf(chat);
    const open = button(title, () => this.handlers.onOpen(chat.id), item);
    open.className = "title";
    open.title = new Date(chat.used).toLocaleString();
    open.dataset.chat = chat.id;
    if (chat.id === this.current) open.setAttribute("aria-current", "true");
    button("Rename", () => this.rename(chat, title, open), item, `Rename ${title}`);
    buttonWithDoubt("Delete", () => this.handlers.onRemove([chat.id]), item, `Delete ${title}`);
    return item;
  }

  rename(chat, title, open) {
    const input = document.createElement("input");
    input.value = title;
    input.setAttribute("aria-label", "Name of the chat");
    open.replaceWith(input);
    input.select();
    let ended = false;
    const end = async (name) => {
      if (ended) return;
      ended = true; // Its removal blurs it too.
      input.replaceWith(open);
      if (name && name !== title) await this.handlers.onRename(chat.id, name);
      await this.refresh();
    };
    input.addEventListener("blur", () => end(input.value.trim()));
    input.addEventListener("keydown", async (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      await end(event.key === "Enter" ? input.value.trim() : "");
      $("chat-list").querySelector(`[data-chat="${chat.id}"]`)?.focus();
    });
  }
}
