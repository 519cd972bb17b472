#include "llama/embedding_cache.h"

namespace rkv {

const std::vector<float>* EmbeddingCache::Find(const std::string& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &entries_.front().second;
}

void EmbeddingCache::Add(const std::string& key, const std::vector<float>& embeddings) {
  Entry entry(key, embeddings);
  if (key.empty() || by_key_.contains(key) || Bytes(entry) > max_bytes_) return;
  held_bytes_ += Bytes(entry);
  entries_.push_front(std::move(entry));
  by_key_[key] = entries_.begin();
  while (held_bytes_ > max_bytes_) {
    held_bytes_ -= Bytes(entries_.back());
    by_key_.erase(entries_.back().first);
    entries_.pop_back();
  }
}

}  // namespace rkv
