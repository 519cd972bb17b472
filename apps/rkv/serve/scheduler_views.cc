// The scheduler's reports: counters, slots and conversations. They are made on its own thread,
// between two steps.
#include <map>

#include "inspect/text.h"
#include "report.h"
#include "serve/scheduler.h"

namespace rkv::app {

using nlohmann::json;

namespace {

std::string WithoutMarkers(std::string text) {
  const std::string marker(MediaMarker());
  for (size_t at = text.find(marker); at != std::string::npos; at = text.find(marker, at)) {
    text.erase(at, marker.size());
  }
  return text;
}

json TurnsJson(const std::vector<ChatMessage>& messages) {
  json turns = json::array();
  std::string question;
  for (const ChatMessage& message : messages) {
    if (message.role == "user") question = WithoutMarkers(message.content);
    if (message.role != "assistant") continue;
    turns.push_back({{"question", question}, {"answer", message.content}});
  }
  return turns;
}

}  // namespace

SchedulerStats Scheduler::stats() {
  return Call([this] {
    SchedulerStats stats = stats_;
    stats.running = running_.size();
    stats.waiting = waiting_.size();
    stats.requests_refused += n_refused_;
    stats.idle = conversations_.idle().size();
    const ConversationCache::Counts& counts = conversations_.counts();
    stats.conversations_parked = counts.parked;
    stats.conversations_restored = counts.restored;
    stats.conversations_dropped = counts.dropped;
    stats.park_failures = counts.park_failures;
    stats.kv_bytes_reserved = Committed();
    stats.kv_bytes_limit = options_.memory_bytes;
    const auto add = [&stats](const Conversation& conversation) {
      const CacheStats cache = conversation.stats();
      stats.kv_bytes += cache.held_bytes;
      stats.kv_bytes_full += cache.full_bytes;
      stats.kv_state_bytes += cache.state_bytes;
    };
    for (const auto& [key, held] : conversations_.idle()) add(*held.conversation);
    for (const auto& job : running_) add(*job->held->conversation);
    for (const auto& job : waiting_) {
      if (job->held.has_value()) add(*job->held->conversation);
    }
    return stats;
  });
}

json Scheduler::Slots() {
  return Call([this] {
    json slots = json::array();
    for (int i = 0; i < n_slots_; ++i) {
      slots.push_back({{"id", i}, {"n_ctx", n_ctx_}, {"is_processing", false}});
    }
    for (const auto& job : running_) {
      json& slot = slots[static_cast<size_t>(job->slot)];
      slot["is_processing"] = true;
      slot["conversation_id"] = job->held->id;
      slot["n_prompt_tokens"] = job->n_cached_tokens + job->answer.result.n_prompt_tokens;
      slot["n_decoded"] = job->answer.result.n_generated;
      slot["kv"] = CacheJson(*job->held->conversation);
    }
    return slots;
  });
}

json Scheduler::Conversations() {
  return Call([this] {
    json list = json::array();
    std::map<std::string, bool> in_memory;
    const auto add = [&](const HeldConversation& held, const char* state) {
      const CacheStats stats = held.conversation->stats();
      list.push_back({{"id", held.id},
                      {"state", state},
                      {"saved", held.saved},
                      {"tokens", stats.tokens_seen},
                      {"held_bytes", stats.held_bytes},
                      {"full_bytes", stats.full_bytes}});
      in_memory[held.id] = true;
    };
    for (const auto& job : running_) add(*job->held, "running");
    for (const auto& [key, held] : conversations_.idle()) add(held, "idle");
    for (const ParkStore::Entry& entry : conversations_.parked()) {
      if (in_memory.contains(entry.conversation_id)) continue;
      list.push_back({{"id", entry.conversation_id},
                      {"state", "parked"},
                      {"saved", true},
                      {"tokens", entry.tokens},
                      {"held_bytes", 0}});
    }
    return list;
  });
}

std::optional<json> Scheduler::Inspect(const std::string& conversation_id) {
  return Call([&]() -> std::optional<json> {
    const HeldConversation* found = nullptr;
    for (const auto& [key, held] : conversations_.idle()) {
      if (held.id == conversation_id) found = &held;
    }
    for (const auto& job : running_) {
      if (job->held->id == conversation_id) found = &*job->held;
    }
    if (found == nullptr) return std::nullopt;
    json inspection = InspectionJson(found->conversation->Inspect());
    inspection["model"] = model_description_;
    inspection["kv"] = CacheJson(*found->conversation);
    inspection["turns"] = TurnsJson(found->conversation->messages());
    return inspection;
  });
}

}  // namespace rkv::app
