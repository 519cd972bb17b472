// Rows of K and V of one KV head in one precision, in pages: the tokens of one rung of the ladder,
// or the states that absorbed forgotten tokens.
#ifndef RETENTIVEKV_ROWS_ROW_STORE_H_
#define RETENTIVEKV_ROWS_ROW_STORE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/bytes.h"
#include "kernels/attention.h"

namespace rkv {

// The parts of every row of a store. Shared by all stores of a kind, which it must outlive.
struct RowLayout {
  size_t d_k = 0;
  size_t d_v = 0;
  ElementType k_type = ElementType::kF16;
  ElementType v_type = ElementType::kF16;
  size_t n_stats = 0;     // floats that a policy keeps per row
  bool is_state = false;  // rows have a mass and a spread

  size_t k_bytes() const { return RowBytes(k_type, d_k); }
  size_t v_bytes() const { return RowBytes(v_type, d_v); }
  size_t n_floats() const { return n_stats + (is_state ? 2 : 0); }
  // Bytes of one row: K, V, the index, the floats.
  size_t row_bytes() const {
    return k_bytes() + v_bytes() + sizeof(uint32_t) + n_floats() * sizeof(float);
  }
};

// A row's parts, in the types of its layout.
struct RowView {
  const void* k = nullptr;
  const void* v = nullptr;
  uint32_t index = 0;            // token: its place in the conversation; state: of its first token
  const float* stats = nullptr;  // [n_stats]
  float log_mass = 0;            // state: logarithm of the number of tokens it stands for
  float spread = 0;              // state: mean variance of a key element among them
};

// Attention does not depend on the order of rows, since positions are inside the rotated keys. So
// the last row fills the slot of a removed one, and removal costs O(1) per row. A value type:
// copies are deep. Not thread-safe; readers may run concurrently.
class RowStore {
 public:
  // Rows per page; the last page may be smaller. Equal to the attention block, so that blocks start
  // at page starts. Results then do not depend on the history of the store.
  static constexpr size_t kPageRows = kAttentionBlock;

  explicit RowStore(const RowLayout& layout) : layout_(&layout) {}
  RowStore(const RowStore& other);
  RowStore& operator=(const RowStore& other);
  RowStore(RowStore&& other) noexcept;
  RowStore& operator=(RowStore&& other) noexcept;
  ~RowStore();

  const RowLayout& layout() const { return *layout_; }
  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }

  // Changes the room to exactly `rows`. REQUIRES: rows >= size().
  void SetCapacity(size_t rows);
  // Makes room for `extra` rows, with up to `spare` more so that appending allocates rarely.
  void Reserve(size_t extra, size_t spare = 0);

  // Copies a row. REQUIRES: size() < capacity().
  void Append(const RowView& row);

  // Removes the rows in the given slots; sorts `slots`. REQUIRES: distinct slots < size().
  void Remove(std::span<uint32_t> slots);

  RowView row(size_t slot) const;
  uint32_t index(size_t slot) const { return indices(slot / kPageRows)[slot % kPageRows]; }
  void DecodeKey(size_t slot, float* k) const;
  void DecodeValue(size_t slot, float* v) const;
  std::span<float> stats(size_t slot);
  std::span<const float> stats(size_t slot) const;
  void SetIndex(size_t slot, uint32_t index) {
    indices(slot / kPageRows)[slot % kPageRows] = index;
  }
  // Replaces K and V of a row, in the layout's types.
  void SetKeyAndValue(size_t slot, const void* k, const void* v);

  // Pages as attention spans, in slot order; together they hold size() rows.
  size_t n_spans() const { return (size_ + kPageRows - 1) / kPageRows; }
  KvSpan span(size_t page) const;

  // Allocated bytes: pages with their spare room, and the page table.
  size_t held_bytes() const { return BytesFor(capacity_, *layout_); }
  // held_bytes() of a store with exactly room for `n` rows.
  static size_t BytesFor(size_t n, const RowLayout& layout) {
    return n * layout.row_bytes() + n_pages(n) * sizeof(Page);
  }

  // Writes or replaces the contents. Load() gives the same slots in the same order, and false for
  // bytes that no store with this layout wrote.
  void Save(ByteWriter& writer) const;
  bool Load(ByteReader& reader);

 private:
  // indices, floats, K rows, V rows; each array has the page's capacity. Owned; null while moving.
  using Page = uint8_t*;

  static constexpr size_t n_pages(size_t rows) { return (rows + kPageRows - 1) / kPageRows; }
  size_t page_capacity(size_t page) const {
    return std::min(kPageRows, capacity_ - page * kPageRows);
  }
  size_t page_bytes(size_t page) const { return page_capacity(page) * layout_->row_bytes(); }
  bool pooled(size_t page) const;
  Page AllocatePage(size_t page) const;
  void FreePage(size_t page);
  uint32_t* indices(size_t page) const { return reinterpret_cast<uint32_t*>(pages_[page]); }
  float* floats(size_t page) const {  // [capacity, n_stats], then masses, then spreads
    return reinterpret_cast<float*>(pages_[page] + page_capacity(page) * sizeof(uint32_t));
  }
  uint8_t* keys(size_t page) const {
    return reinterpret_cast<uint8_t*>(floats(page) + page_capacity(page) * layout_->n_floats());
  }
  uint8_t* values(size_t page) const {
    return keys(page) + page_capacity(page) * layout_->k_bytes();
  }
  void SetRow(size_t slot, const RowView& row);

  const RowLayout* layout_;
  std::unique_ptr<Page[]> pages_;
  uint32_t size_ = 0;
  uint32_t capacity_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_ROWS_ROW_STORE_H_
