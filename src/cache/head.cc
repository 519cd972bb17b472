// The contents of a head: rows, tables, bytes, and their saved form. head_attend.cc reads them.
#include "cache/head.h"

#include <algorithm>
#include <cmath>

namespace rkv {

namespace {

// Bounds for a state's log_mass: the logarithms of more tokens than possible, and of the smallest
// float.
constexpr float kMaxLogMass = 64.0f;
constexpr float kMinLogMass = -104.0f;

// Writes a flag that the table exists, and its elements.
template <typename T>
void SaveTable(const T* table, size_t n, ByteWriter& writer) {
  writer.Write<uint8_t>(table != nullptr ? 1 : 0);
  if (table != nullptr) writer.WriteRaw(table, n * sizeof(T));
}

template <typename T>
bool LoadTable(std::unique_ptr<T[]>& table, size_t n, ByteReader& reader) {
  if (!reader.ReadBool()) return true;
  if (n * sizeof(T) > reader.remaining()) return false;
  table = std::make_unique_for_overwrite<T[]>(n);
  reader.ReadRaw(table.get(), n * sizeof(T));
  return true;
}

template <typename T>
std::unique_ptr<T[]> CopyTable(const std::unique_ptr<T[]>& table, size_t n) {
  if (table == nullptr) return nullptr;
  auto copy = std::make_unique_for_overwrite<T[]>(n);
  std::copy_n(table.get(), n, copy.get());
  return copy;
}

}  // namespace

Head::Head(const CacheConfig& config, size_t number)
    : id_(&config.head_id(number)),
      stores_(std::make_unique<std::unique_ptr<RowStore>[]>(config.n_tiers())) {}

Head::Head(const Head& other)
    : id_(other.id_),
      stores_(std::make_unique<std::unique_ptr<RowStore>[]>(config().n_tiers())),
      centre_(CopyTable(other.centre_, CentreBytes(shape()))),
      matrix_(CopyTable(other.matrix_, MatrixElements(shape()))) {
  for (size_t tier = 0; tier < config().n_tiers(); ++tier) {
    if (other.stores_[tier] == nullptr) continue;
    stores_[tier] = std::make_unique<RowStore>(*other.stores_[tier]);
  }
}

RowStore& Head::mutable_store(size_t tier) {
  if (stores_[tier] == nullptr) stores_[tier] = std::make_unique<RowStore>(layout(tier));
  return *stores_[tier];
}

size_t Head::n_tokens() const {
  size_t n = 0;
  for (size_t tier = 0; tier < config().n_rungs(); ++tier) n += store(tier).size();
  return n;
}

void Head::SetCapacity(size_t tier, size_t rows) {
  if (rows > 0) {
    mutable_store(tier).SetCapacity(rows);
  } else {
    stores_[tier].reset();
  }
}

void Head::SetCentre(const float* k, const float* v) {
  centre_ = std::make_unique_for_overwrite<uint8_t[]>(CentreBytes(shape()));
  EncodeRow(ElementType::kQ8_0, k, shape().d_k, centre_.get());
  EncodeRow(ElementType::kQ8_0, v, shape().d_v,
            centre_.get() + RowBytes(ElementType::kQ8_0, shape().d_k));
}

void Head::MakeMatrix() { matrix_ = std::make_unique<uint16_t[]>(MatrixElements(shape())); }

uint64_t Head::table_bytes() const {
  return config().n_tiers() * sizeof(stores_[0]) + (centre_ != nullptr ? CentreBytes(shape()) : 0) +
         (matrix_ != nullptr ? MatrixBytes(shape()) : 0);
}

uint64_t Head::held_bytes() const {
  uint64_t bytes = table_bytes();
  for (size_t tier = 0; tier < config().n_tiers(); ++tier) {
    if (stores_[tier] != nullptr) bytes += StoreBytes(*stores_[tier]);
  }
  return bytes;
}

void Head::Truncate(uint64_t n_tokens) {
  std::vector<uint32_t> slots;
  for (size_t tier = 0; tier < config().n_tiers(); ++tier) {
    if (store(tier).capacity() == 0) continue;
    RowStore& rows = mutable_store(tier);
    const bool are_states = tier == config().state_tier();
    if (are_states && n_tokens > 0) {
      const auto last = static_cast<uint32_t>(n_tokens - 1);
      for (size_t slot = 0; slot < rows.size(); ++slot) {
        rows.SetIndex(slot, std::min(rows.index(slot), last));
      }
      continue;
    }
    slots.clear();
    for (uint32_t slot = 0; slot < rows.size(); ++slot) {
      if (rows.index(slot) >= n_tokens || are_states) slots.push_back(slot);
    }
    rows.Remove(slots);
    if (!slots.empty()) {
      SetCapacity(tier, std::min(rows.capacity(), rows.size() + SpareRows(rows.size())));
    }
  }
  if (n_tokens > 0) return;
  centre_.reset();
  matrix_.reset();
}

void Head::SaveRows(ByteWriter& writer) const {
  for (size_t tier = 0; tier < config().n_tiers(); ++tier) {
    const RowStore& rows = store(tier);
    rows.Save(writer);
    writer.Write(static_cast<uint32_t>(rows.capacity() - rows.size()));
  }
}

bool Head::LoadRows(uint64_t tokens_seen, uint64_t end_of_roots, bool with_room,
                    ByteReader& reader) {
  std::vector<uint32_t> tokens;
  for (size_t tier = 0; tier < config().n_tiers(); ++tier) {
    RowStore rows(layout(tier));
    if (!rows.Load(reader)) return false;
    const uint32_t spare = with_room ? reader.Read<uint32_t>() : 0;
    if (spare > kMaxSpareRows) return false;
    for (size_t slot = 0; slot < rows.size(); ++slot) {
      if (!rows.layout().is_state) {
        tokens.push_back(rows.index(slot));
        continue;
      }
      const RowView state = rows.row(slot);
      const bool sane = state.index < end_of_roots && state.log_mass >= kMinLogMass &&
                        state.log_mass <= kMaxLogMass && state.spread >= 0;
      if (!sane) return false;
    }
    rows.SetCapacity(rows.size() + spare);
    if (rows.capacity() > 0) mutable_store(tier) = std::move(rows);
  }
  // No token may occur twice. Without a budget, every token must occur.
  std::ranges::sort(tokens);
  return std::ranges::adjacent_find(tokens) == tokens.end() &&
         (tokens.empty() || tokens.back() < tokens_seen) &&
         (!config().options().budget.unlimited() || tokens.size() == tokens_seen);
}

void Head::SaveCentre(ByteWriter& writer) const {
  SaveTable(centre_.get(), CentreBytes(shape()), writer);
}

bool Head::LoadCentre(ByteReader& reader) {
  return LoadTable(centre_, CentreBytes(shape()), reader);
}

void Head::SaveMatrix(ByteWriter& writer) const {
  SaveTable(matrix_.get(), MatrixElements(shape()), writer);
}

bool Head::LoadMatrix(ByteReader& reader) {
  return LoadTable(matrix_, MatrixElements(shape()), reader);
}

}  // namespace rkv
