#include "memory/exact_store.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <functional>

namespace rkv {

ExactStore::ExactStore(const ExactStore& other)
    : d_k_(other.d_k_), d_v_(other.d_v_), size_(other.size_), capacity_(other.capacity_) {
  pages_.reserve(other.pages_.size());
  size_t left = size_;
  for (const Page& page : other.pages_) {
    Page copy = NewPage(page.capacity);
    const size_t used = std::min(left, page.capacity);
    std::copy_n(page.k.get(), used * d_k_, copy.k.get());
    std::copy_n(page.v.get(), used * d_v_, copy.v.get());
    std::copy_n(page.index.get(), used, copy.index.get());
    left -= used;
    pages_.push_back(std::move(copy));
  }
}

ExactStore& ExactStore::operator=(const ExactStore& other) {
  if (this != &other) *this = ExactStore(other);
  return *this;
}

ExactStore::Page ExactStore::NewPage(size_t capacity) const {
  return {.k = std::make_unique_for_overwrite<uint16_t[]>(capacity * d_k_),
          .v = std::make_unique_for_overwrite<uint16_t[]>(capacity * d_v_),
          .index = std::make_unique_for_overwrite<uint32_t[]>(capacity),
          .capacity = capacity};
}

void ExactStore::ResizePage(Page& page, size_t capacity, size_t used) {
  if (page.capacity == capacity) return;
  Page resized = NewPage(capacity);
  std::copy_n(page.k.get(), used * d_k_, resized.k.get());
  std::copy_n(page.v.get(), used * d_v_, resized.v.get());
  std::copy_n(page.index.get(), used, resized.index.get());
  capacity_ += capacity - page.capacity;
  page = std::move(resized);
}

void ExactStore::Reserve(size_t extra, size_t max_capacity) {
  const size_t needed = size_ + extra;
  if (needed <= capacity_) return;
  const size_t wanted = std::max(needed, std::min(needed + Slack(needed), max_capacity));
  if (!pages_.empty() && pages_.back().capacity < kPageTokens) {
    const size_t before = (pages_.size() - 1) * kPageTokens;
    ResizePage(pages_.back(), std::min(kPageTokens, wanted - before),
               size_ > before ? size_ - before : 0);
  }
  pages_.reserve((wanted + kPageTokens - 1) / kPageTokens);
  while (capacity_ < wanted) {
    pages_.push_back(NewPage(std::min(kPageTokens, wanted - capacity_)));
    capacity_ += pages_.back().capacity;
  }
}

void ExactStore::Shrink(size_t spare) {
  const size_t wanted = size_ + spare;
  while (!pages_.empty() && capacity_ - pages_.back().capacity >= wanted) {
    capacity_ -= pages_.back().capacity;
    pages_.pop_back();
  }
  if (capacity_ > wanted) {
    const size_t before = (pages_.size() - 1) * kPageTokens;
    ResizePage(pages_.back(), wanted - before, size_ > before ? size_ - before : 0);
  }
  pages_.shrink_to_fit();
}

void ExactStore::Stage(size_t i, const uint16_t* k, const uint16_t* v, uint32_t token_index) {
  const size_t slot = size_ + i;
  assert(slot < capacity_);
  std::memcpy(mutable_key(slot), k, d_k_ * sizeof(uint16_t));
  std::memcpy(mutable_value(slot), v, d_v_ * sizeof(uint16_t));
  pages_[slot / kPageTokens].index[slot % kPageTokens] = token_index;
}

void ExactStore::Commit(size_t n) {
  assert(size_ + n <= capacity_);
  size_ += n;
}

void ExactStore::Remove(std::span<uint32_t> slots) {
  // From the highest slot down, the last slot is never one that still has to go.
  std::sort(slots.begin(), slots.end(), std::greater<>());
  for (const uint32_t slot : slots) {
    assert(slot < size_);
    MoveSlot(size_ - 1, slot);
    --size_;
  }
}

void ExactStore::MoveSlot(size_t from, size_t to) {
  if (from == to) return;
  std::memcpy(mutable_key(to), key(from), d_k_ * sizeof(uint16_t));
  std::memcpy(mutable_value(to), value(from), d_v_ * sizeof(uint16_t));
  pages_[to / kPageTokens].index[to % kPageTokens] = token_index(from);
}

uint32_t ExactStore::token_index(size_t slot) const {
  return pages_[slot / kPageTokens].index[slot % kPageTokens];
}
const uint16_t* ExactStore::key(size_t slot) const {
  return pages_[slot / kPageTokens].k.get() + (slot % kPageTokens) * d_k_;
}
const uint16_t* ExactStore::value(size_t slot) const {
  return pages_[slot / kPageTokens].v.get() + (slot % kPageTokens) * d_v_;
}
uint16_t* ExactStore::mutable_key(size_t slot) {
  return pages_[slot / kPageTokens].k.get() + (slot % kPageTokens) * d_k_;
}
uint16_t* ExactStore::mutable_value(size_t slot) {
  return pages_[slot / kPageTokens].v.get() + (slot % kPageTokens) * d_v_;
}

KvSpan ExactStore::span(size_t page) const {
  return {.k = pages_[page].k.get(),
          .v = pages_[page].v.get(),
          .k_stride = d_k_,
          .v_stride = d_v_,
          .n = std::min(kPageTokens, size_ - page * kPageTokens)};
}

size_t ExactStore::held_bytes() const {
  return capacity_ * TokenBytes(d_k_, d_v_) + pages_.capacity() * sizeof(Page);
}

void ExactStore::Save(ByteWriter& writer) const {
  writer.Write<uint64_t>(size_);
  for (size_t slot = 0; slot < size_; ++slot) {
    writer.Write<uint32_t>(token_index(slot));
    writer.WriteRaw(key(slot), d_k_ * sizeof(uint16_t));
    writer.WriteRaw(value(slot), d_v_ * sizeof(uint16_t));
  }
}

bool ExactStore::Load(ByteReader& reader) {
  const uint64_t n = reader.ReadCount(TokenBytes(d_k_, d_v_));
  ExactStore loaded(d_k_, d_v_);
  loaded.Reserve(n, n);
  std::vector<uint16_t> k(d_k_), v(d_v_);
  for (uint64_t slot = 0; slot < n; ++slot) {
    const uint32_t index = reader.Read<uint32_t>();
    reader.ReadRaw(k.data(), d_k_ * sizeof(uint16_t));
    reader.ReadRaw(v.data(), d_v_ * sizeof(uint16_t));
    loaded.Stage(slot, k.data(), v.data(), index);
  }
  loaded.Commit(n);
  if (!reader.ok()) return false;
  *this = std::move(loaded);
  return true;
}

}  // namespace rkv
