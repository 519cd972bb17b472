// llama.cpp's number types, for code that does not include its headers.
#ifndef RETENTIVEKV_LLAMA_TOKEN_H_
#define RETENTIVEKV_LLAMA_TOKEN_H_

#include <cstdint>

namespace rkv {

using Token = int32_t;
using Position = int32_t;    // in a conversation
using SequenceId = int32_t;  // of a conversation in a batch

inline constexpr Token kNoToken = -1;

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_TOKEN_H_
