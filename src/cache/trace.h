// The states of absorbed tokens, and the attention of an answer's tokens, for Inspect().
#ifndef RETENTIVEKV_CACHE_TRACE_H_
#define RETENTIVEKV_CACHE_TRACE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "retentivekv/inspect.h"

namespace rkv {

struct Trace {
  struct Head {
    // Forgets tokens from the n-th on. Roots there become the last token before.
    void Truncate(size_t n);
    // Updates roots after states changed. `roots_before`: roots of the states before. `tokens`: the
    // newly absorbed tokens. new_root(i): new root of the i-th of both together; -1: forgotten.
    template <typename Root>
    void Move(size_t n_tokens, const std::vector<uint32_t>& roots_before,
              const std::vector<uint32_t>& tokens, const Root& new_root);

    std::vector<int64_t> root;       // of absorbed tokens; -1: not absorbed
    std::vector<float> share;        // of tokens, summed over the answer's tokens
    std::vector<float> state_share;  // likewise, by the root of a state
  };
  // Forgets tokens from the n-th on, and their attention. `n_cells`: remaining cells of pictures
  // and clips.
  void Truncate(size_t n, size_t n_cells);

  std::vector<Head> heads;
  uint64_t answer_tokens = 0;
  std::deque<AnswerTokenInspection> answer;
};

template <typename Root>
void Trace::Head::Move(size_t n_tokens, const std::vector<uint32_t>& roots_before,
                       const std::vector<uint32_t>& tokens, const Root& new_root) {
  root.resize(n_tokens, -1);
  // Shares go with the states that took them.
  std::vector<float> shares_now(state_share.size());
  for (size_t i = 0; i < roots_before.size(); ++i) {
    const int64_t to = new_root(i);
    if (to >= 0 && roots_before[i] < state_share.size() &&
        static_cast<size_t>(to) < state_share.size()) {
      shares_now[static_cast<size_t>(to)] += state_share[roots_before[i]];
    }
  }
  state_share = std::move(shares_now);
  std::vector<int64_t> moved = root;
  for (size_t i = 0; i < root.size(); ++i) {
    const auto at = std::ranges::find(roots_before, root[i]);
    if (at != roots_before.end()) {
      moved[i] = new_root(static_cast<size_t>(at - roots_before.begin()));
    }
  }
  for (size_t i = 0; i < tokens.size(); ++i) moved[tokens[i]] = new_root(roots_before.size() + i);
  root = std::move(moved);
}

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_TRACE_H_
