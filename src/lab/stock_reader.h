// Next-token logits of stock llama.cpp, to compare with.
#ifndef RETENTIVEKV_LAB_STOCK_READER_H_
#define RETENTIVEKV_LAB_STOCK_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

// Reads texts with a model and an f16 cache as llama.cpp has them.
class StockReader {
 public:
  // Loads the weights of the file, apart from those of any Engine. `n_ctx`: longest text in tokens.
  // `n_threads`: 0 for all cores.
  // kBadFile for a file that llama.cpp does not load.
  static Result<std::unique_ptr<StockReader>> Load(const std::string& path, size_t n_ctx,
                                                   int n_threads);
  ~StockReader();
  StockReader(const StockReader&) = delete;
  StockReader& operator=(const StockReader&) = delete;

  // Forgets earlier texts, and reads `tokens` with flash attention or without. kResourceExhausted,
  // as Continue(), for more than `n_ctx` tokens.
  Status Read(std::span<const int32_t> tokens, bool flash_attention);
  // Goes on with `tokens`, and then back to the end of Read(). Returns the logits after each token
  // from number `first` on, as [token][vocabulary].
  Result<std::vector<std::vector<float>>> Continue(std::span<const int32_t> tokens, size_t first);

 private:
  struct Impl;
  explicit StockReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_STOCK_READER_H_
