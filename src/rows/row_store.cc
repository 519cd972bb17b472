// Rows in pages. All pages but the last are full size, and all slots below size() are in use.
#include "rows/row_store.h"

#include <cassert>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "rows/page_pool.h"

namespace rkv {

RowStore::RowStore(const RowStore& other) : layout_(other.layout_) {
  SetCapacity(other.capacity_);
  for (size_t slot = 0; slot < other.size_; ++slot) Append(other.row(slot));
}

RowStore& RowStore::operator=(const RowStore& other) {
  if (this != &other) *this = RowStore(other);
  return *this;
}

RowStore::RowStore(RowStore&& other) noexcept
    : layout_(other.layout_),
      pages_(std::move(other.pages_)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)) {}

RowStore& RowStore::operator=(RowStore&& other) noexcept {
  std::swap(layout_, other.layout_);
  std::swap(pages_, other.pages_);
  std::swap(size_, other.size_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

RowStore::~RowStore() {
  for (size_t page = 0; page < n_pages(capacity_); ++page) FreePage(page);
}

// Only whole pages are pooled. Pages of other sizes come and go with every compression, and would
// leave gaps that nothing fits into.
bool RowStore::pooled(size_t page) const {
  return PagePool::kUsed && page_capacity(page) == kPageRows &&
         page_bytes(page) <= PagePool::kMaxBytes;
}

RowStore::Page RowStore::AllocatePage(size_t page) const {
  const size_t bytes = page_bytes(page);
  return pooled(page) ? PagePool::Shared().Allocate(bytes) : new uint8_t[bytes];
}

void RowStore::FreePage(size_t page) {
  if (pages_[page] == nullptr) return;
  if (pooled(page)) {
    PagePool::Shared().Free(pages_[page], page_bytes(page));
  } else {
    delete[] pages_[page];
  }
}

void RowStore::SetCapacity(size_t rows) {
  assert(rows >= size_);
  if (rows == capacity_) return;
  RowStore resized(*layout_);
  if (rows > 0) resized.pages_ = std::make_unique<Page[]>(n_pages(rows));
  resized.capacity_ = static_cast<uint32_t>(rows);
  const auto same = [&](size_t page) {
    return page < n_pages(capacity_) && page_capacity(page) == resized.page_capacity(page);
  };
  // Allocations may fail, so they precede all moves.
  for (size_t page = 0; page < n_pages(rows); ++page) {
    if (!same(page)) resized.pages_[page] = resized.AllocatePage(page);
  }
  for (size_t page = 0; page < n_pages(rows); ++page) {
    if (same(page)) resized.pages_[page] = std::exchange(pages_[page], nullptr);
  }
  // Only the last page can differ.
  const size_t moved = std::min(n_pages(capacity_), n_pages(rows));
  const size_t first = moved == 0 ? 0 : (moved - 1) * kPageRows;
  for (size_t slot = first; slot < size_; ++slot) {
    if (pages_[slot / kPageRows] == nullptr) break;
    resized.SetRow(slot, row(slot));
  }
  resized.size_ = size_;
  *this = std::move(resized);
}

void RowStore::Reserve(size_t extra, size_t spare) {
  if (size_ + extra > capacity_) SetCapacity(size_ + extra + spare);
}

void RowStore::SetRow(size_t slot, const RowView& row) {
  const size_t page = slot / kPageRows;
  const size_t at = slot % kPageRows;
  const size_t capacity = page_capacity(page);
  indices(page)[at] = row.index;
  if (layout_->n_stats > 0) {
    float* stats = floats(page) + at * layout_->n_stats;
    for (size_t i = 0; i < layout_->n_stats; ++i) {
      stats[i] = row.stats != nullptr ? row.stats[i] : 0.0f;
    }
  }
  if (layout_->is_state) {
    float* masses = floats(page) + capacity * layout_->n_stats;
    masses[at] = row.log_mass;
    masses[capacity + at] = row.spread;
  }
  SetKeyAndValue(slot, row.k, row.v);
}

void RowStore::SetKeyAndValue(size_t slot, const void* k, const void* v) {
  const size_t page = slot / kPageRows;
  const size_t at = slot % kPageRows;
  std::memcpy(keys(page) + at * layout_->k_bytes(), k, layout_->k_bytes());
  std::memcpy(values(page) + at * layout_->v_bytes(), v, layout_->v_bytes());
}

void RowStore::Append(const RowView& row) {
  assert(size_ < capacity_);
  SetRow(size_++, row);
}

RowView RowStore::row(size_t slot) const {
  const size_t page = slot / kPageRows;
  const size_t at = slot % kPageRows;
  RowView row{.k = keys(page) + at * layout_->k_bytes(),
              .v = values(page) + at * layout_->v_bytes(),
              .index = indices(page)[at],
              .stats = stats(slot).data()};
  if (layout_->is_state) {
    const float* masses = floats(page) + page_capacity(page) * layout_->n_stats;
    row.log_mass = masses[at];
    row.spread = masses[page_capacity(page) + at];
  }
  return row;
}

void RowStore::Remove(std::span<uint32_t> slots) {
  // In descending order, the last slot is never one that is still to be removed.
  std::sort(slots.begin(), slots.end(), std::greater<>());
  for (const uint32_t slot : slots) {
    assert(slot < size_);
    --size_;
    if (slot != size_) SetRow(slot, row(size_));
  }
}

void RowStore::DecodeKey(size_t slot, float* k) const {
  DecodeRow(layout_->k_type, row(slot).k, layout_->d_k, k);
}
void RowStore::DecodeValue(size_t slot, float* v) const {
  DecodeRow(layout_->v_type, row(slot).v, layout_->d_v, v);
}

std::span<float> RowStore::stats(size_t slot) {
  const size_t n = layout_->n_stats;
  return {floats(slot / kPageRows) + slot % kPageRows * n, n};
}
std::span<const float> RowStore::stats(size_t slot) const {
  const size_t n = layout_->n_stats;
  return {floats(slot / kPageRows) + slot % kPageRows * n, n};
}

KvSpan RowStore::span(size_t page) const {
  KvSpan span{.k = keys(page),
              .v = values(page),
              .k_type = layout_->k_type,
              .v_type = layout_->v_type,
              .k_stride = layout_->k_bytes(),
              .v_stride = layout_->v_bytes(),
              .n = std::min<size_t>(kPageRows, size_ - page * kPageRows)};
  if (layout_->is_state) {
    span.log_mass = floats(page) + page_capacity(page) * layout_->n_stats;
    span.spread = span.log_mass + page_capacity(page);
  }
  return span;
}

void RowStore::Save(ByteWriter& writer) const {
  writer.Write<uint64_t>(size_);
  for (size_t slot = 0; slot < size_; ++slot) {
    const RowView view = row(slot);
    writer.Write<uint32_t>(view.index);
    writer.WriteRaw(view.k, layout_->k_bytes());
    writer.WriteRaw(view.v, layout_->v_bytes());
    for (const float stat : stats(slot)) writer.Write(stat);
    if (!layout_->is_state) continue;
    writer.Write(view.log_mass);
    writer.Write(view.spread);
  }
}

bool RowStore::Load(ByteReader& reader) {
  const uint64_t n = reader.ReadCount(layout_->row_bytes());
  RowStore loaded(*layout_);
  loaded.SetCapacity(n);
  std::vector<uint8_t> k(layout_->k_bytes()), v(layout_->v_bytes());
  std::vector<float> stats(layout_->n_stats);
  for (uint64_t slot = 0; slot < n; ++slot) {
    RowView view{.k = k.data(), .v = v.data(), .stats = stats.data()};
    view.index = reader.Read<uint32_t>();
    reader.ReadRaw(k.data(), k.size());
    reader.ReadRaw(v.data(), v.size());
    bool finite = true;
    const auto read = [&reader, &finite] {
      const float x = reader.Read<float>();
      finite = finite && std::isfinite(x);
      return x;
    };
    for (float& stat : stats) stat = read();
    if (layout_->is_state) {
      view.log_mass = read();
      view.spread = read();
    }
    if (!finite) return false;
    loaded.Append(view);
  }
  if (!reader.ok()) return false;
  *this = std::move(loaded);
  return true;
}

}  // namespace rkv
