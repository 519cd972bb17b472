// Copies of GGUF files with other metadata.
#ifndef RETENTIVEKV_TESTS_SUPPORT_CHANGED_MODEL_H_
#define RETENTIVEKV_TESTS_SUPPORT_CHANGED_MODEL_H_

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "support/pictures.h"

namespace rkv {

// Writes `source` as `name` with these strings in its metadata, and returns the path. An empty
// string takes a key out. Without `weights` only metadata are written.
inline std::string WriteChangedModel(const std::string& source, const std::string& name,
                                     const std::map<std::string, std::string>& strings,
                                     bool weights = true) {
  ggml_context* data = nullptr;
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> read(
      gguf_init_from_file(source.c_str(), {.no_alloc = !weights, .ctx = weights ? &data : nullptr}),
      gguf_free);
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> written(gguf_init_empty(),
                                                                       gguf_free);
  EXPECT_NE(read, nullptr) << source;
  gguf_set_kv(written.get(), read.get());
  for (const auto& [key, value] : strings) {
    if (value.empty()) {
      gguf_remove_key(written.get(), key.c_str());
    } else {
      gguf_set_val_str(written.get(), key.c_str(), value.c_str());
    }
  }
  for (ggml_tensor* tensor = weights ? ggml_get_first_tensor(data) : nullptr; tensor != nullptr;
       tensor = ggml_get_next_tensor(data, tensor)) {
    // The file as one piece of data comes first.
    if (gguf_find_tensor(read.get(), tensor->name) >= 0) gguf_add_tensor(written.get(), tensor);
  }
  const std::string path = testing::TempDir() + "/" + name;
  EXPECT_TRUE(gguf_write_to_file(written.get(), path.c_str(), !weights));
  if (data != nullptr) ggml_free(data);
  return path;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_CHANGED_MODEL_H_
