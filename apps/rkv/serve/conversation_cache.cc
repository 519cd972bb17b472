// Keeps idle conversations by their keys, and moves them between memory and the store. Their sum of
// bytes is always current.
#include "serve/conversation_cache.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace rkv::app {

std::string ConversationScope(const GenerationRequest& request, std::string_view model) {
  // Keys of parked conversations depend on this text, so its form must stay.
  std::string scope = fmt::format("{}|{}", request.session, model);
  for (const OptionText& option : OptionTexts(request.cache)) {
    scope += fmt::format("|{}", option.text.empty() ? "-" : option.text);
  }
  return scope;
}

std::optional<HeldConversation> ConversationCache::Take(const std::string& key) {
  const auto found = idle_.find(key);
  if (found == idle_.end()) return std::nullopt;
  return TakeOut(found);
}

std::optional<ParkStore::Entry> ConversationCache::FindParked(const std::string& key) {
  return store_ != nullptr ? store_->Find(key) : std::nullopt;
}

std::optional<HeldConversation> ConversationCache::Restore(Engine& engine,
                                                           const ParkStore::Entry& entry) {
  auto loaded = engine.LoadConversation(store_->Path(entry));
  if (!loaded.ok()) {
    spdlog::warn("{}", loaded.status().message());
    return std::nullopt;
  }
  ++counts_.restored;
  return HeldConversation{.conversation = *std::move(loaded),
                          .id = entry.conversation_id,
                          .key = entry.key,
                          .saved = true,
                          .last_used = std::chrono::steady_clock::now()};
}

void ConversationCache::Keep(HeldConversation held) {
  if (const auto old = idle_.find(held.key); old != idle_.end()) TakeOut(old);
  held.idle_bytes = held.bytes();
  idle_bytes_ += held.idle_bytes;
  std::string key = held.key;
  idle_.emplace(std::move(key), std::move(held));
}

void ConversationCache::Save(HeldConversation& held, const std::string& old_key) {
  if (store_ != nullptr && SaveIfNeeded(held) && !old_key.empty()) store_->Remove(old_key);
}

void ConversationCache::ParkOldest() {
  const auto oldest =
      std::ranges::min_element(idle_, {}, [](const auto& entry) { return entry.second.last_used; });
  const bool parked = store_ != nullptr && SaveIfNeeded(oldest->second);
  // A dropped conversation can be read again: clients send all messages each time.
  ++(parked ? counts_.parked : counts_.dropped);
  TakeOut(oldest);
}

void ConversationCache::Clear() {
  if (store_ != nullptr) {
    for (auto& [key, held] : idle_) SaveIfNeeded(held);
  }
  idle_.clear();
  idle_bytes_ = 0;
}

std::vector<ParkStore::Entry> ConversationCache::parked() {
  return store_ != nullptr ? store_->entries() : std::vector<ParkStore::Entry>();
}

HeldConversation ConversationCache::TakeOut(
    std::map<std::string, HeldConversation>::iterator idle) {
  HeldConversation held = std::move(idle->second);
  idle_bytes_ -= held.idle_bytes;
  idle_.erase(idle);
  return held;
}

bool ConversationCache::SaveIfNeeded(HeldConversation& held) {
  if (held.saved) return true;
  const CacheStats stats = held.conversation->stats();
  const ParkStore::Entry entry{.key = held.key,
                               .conversation_id = held.id,
                               .tokens = stats.tokens_seen,
                               .held_bytes = stats.held_bytes};
  const Status status =
      store_->Put(entry, [&](const std::string& path) { return held.conversation->Save(path); });
  held.saved = status.ok();
  if (!status.ok()) {
    ++counts_.park_failures;
    spdlog::warn("cannot park a conversation; it stays in memory while there is room: {}",
                 status.message());
  }
  return held.saved;
}

}  // namespace rkv::app
