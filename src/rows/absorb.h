// Absorbers by name: their options and defaults. An absorber takes the tokens that the cache
// forgets.
#ifndef RETENTIVEKV_ROWS_ABSORB_H_
#define RETENTIVEKV_ROWS_ABSORB_H_

#include <cstddef>
#include <span>
#include <string_view>

#include "base/spec_options.h"
#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

enum class AbsorbKind {
  kNone,      // plain eviction
  kMerge,     // into the most similar remaining token (LOOK-M)
  kClusters,  // into states by similarity of keys and values
  kStates,    // into root patches of the picture's grid, and time segments of text and audio
};

struct AbsorbInfo {
  AbsorbKind kind;
  std::string_view name;
  std::string_view summary;
  std::span<const SpecOption> options;
};
std::span<const AbsorbInfo> Absorbers();

// An absorber with its options.
struct AbsorbChoice {
  AbsorbKind kind = AbsorbKind::kNone;
  double share = -1;    // of the bytes, for states; -1: solved
  double roots = 4;     // states per picture at first
  double segment = 64;  // tokens per state of text and audio at first
  double text = 1;      // 0: evicted text is dropped
  double kappa = 0;     // retention h = 1 - kappa (1 - mean entropy)
  double weigh = 0;     // 1: absorb with a = relative attention, 0: a = 1
  double variance = 1;  // 1: with the variance term
  double additive = 0;  // factor of the paper's additive readout; 0: the joint softmax
  double matrix = 0;    // 1: with the matrix of how values follow keys

  bool has_states() const { return kind == AbsorbKind::kClusters || kind == AbsorbKind::kStates; }
};

// kInvalidArgument, with the valid ones, for unknown names and options.
Result<AbsorbChoice> MakeAbsorb(const AbsorbSpec& spec);

}  // namespace rkv

#endif  // RETENTIVEKV_ROWS_ABSORB_H_
