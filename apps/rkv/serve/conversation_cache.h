// Conversations between two of their turns: idle in memory, or parked on disk.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_CONVERSATION_CACHE_H_
#define RETENTIVEKV_APPS_RKV_SERVE_CONVERSATION_CACHE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/engine.h"
#include "serve/api.h"
#include "serve/park_store.h"

namespace rkv::app {

// The scope of PrefixKeys(): requests can continue each other's conversations only within the same
// scope.
std::string ConversationScope(const GenerationRequest& request, std::string_view model);

// A conversation and its origin.
struct HeldConversation {
  std::unique_ptr<Conversation> conversation;
  std::string id;
  std::string key;     // key of its messages; empty before the first answer
  bool saved = false;  // the store has the current state
  std::chrono::steady_clock::time_point last_used = {};
  uint64_t idle_bytes = 0;  // held while it is idle

  uint64_t bytes() const { return conversation->stats().held_bytes; }
};

// Finds conversations by the key of their messages. Not thread-safe.
class ConversationCache {
 public:
  // Since the start.
  struct Counts {
    uint64_t parked = 0;
    uint64_t restored = 0;
    uint64_t dropped = 0;  // from memory, without a copy on disk
    uint64_t park_failures = 0;
  };

  // `store` may be null: idle conversations are then dropped to make room.
  explicit ConversationCache(std::unique_ptr<ParkStore> store) : store_(std::move(store)) {}

  // Removes and returns the idle conversation of that key.
  std::optional<HeldConversation> Take(const std::string& key);
  std::optional<ParkStore::Entry> FindParked(const std::string& key);
  // Reads a parked conversation into memory. Nothing, with a line in the log, if it cannot be read.
  std::optional<HeldConversation> Restore(Engine& engine, const ParkStore::Entry& entry);
  // Makes a conversation idle. Of two with the same messages, the later one is kept.
  void Keep(HeldConversation held);
  // Writes the state to the store, if there is one, and removes the state of `old_key`.
  void Save(HeldConversation& held, const std::string& old_key);

  // Moves the conversation with the longest idle time out of memory. REQUIRES: one is idle.
  void ParkOldest();
  // Saves all idle conversations and removes them from memory.
  void Clear();

  const std::map<std::string, HeldConversation>& idle() const { return idle_; }
  uint64_t idle_bytes() const { return idle_bytes_; }
  std::vector<ParkStore::Entry> parked();
  const Counts& counts() const { return counts_; }

 private:
  HeldConversation TakeOut(std::map<std::string, HeldConversation>::iterator idle);
  bool SaveIfNeeded(HeldConversation& held);

  std::unique_ptr<ParkStore> store_;
  std::map<std::string, HeldConversation> idle_;  // by key
  uint64_t idle_bytes_ = 0;
  Counts counts_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_CONVERSATION_CACHE_H_
