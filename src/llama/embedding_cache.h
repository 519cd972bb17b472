// Embeddings of pictures and clips that were already encoded.
#ifndef RETENTIVEKV_LLAMA_EMBEDDING_CACHE_H_
#define RETENTIVEKV_LLAMA_EMBEDDING_CACHE_H_

#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace rkv {

// Evicts the least recently used entry. Not thread-safe.
class EmbeddingCache {
 public:
  explicit EmbeddingCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Null if the key is not held; valid until the next call. An empty key is never held.
  const std::vector<float>* Find(const std::string& key);
  // Does nothing for embeddings larger than the cache.
  void Add(const std::string& key, const std::vector<float>& embeddings);

  size_t held_bytes() const { return held_bytes_; }

 private:
  using Entry = std::pair<std::string, std::vector<float>>;

  static size_t Bytes(const Entry& entry) {
    return sizeof(Entry) + entry.first.size() + entry.second.size() * sizeof(float);
  }

  size_t max_bytes_;
  size_t held_bytes_ = 0;
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_EMBEDDING_CACHE_H_
