// A policy scores each token of the cache. All policies share the code in cache/ that turns scores
// into precisions, chooses the forgotten tokens and absorbs them. Each policy is one file here;
// cmake/PolicyList.cmake finds it.
#ifndef RETENTIVEKV_POLICIES_POLICY_H_
#define RETENTIVEKV_POLICIES_POLICY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/spec_options.h"
#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

// Origin of a token. Text has no cell; audio is one row of cells.
struct TokenInfo {
  Modality modality = Modality::kText;
  uint32_t media = 0;  // which picture or clip of the conversation
  uint16_t row = 0;
  uint16_t column = 0;
};

// Keys and values of tokens, decoded on request: as floats, all of them can take more memory than
// their cache.
class TokenRows {
 public:
  virtual ~TokenRows() = default;

  // Decodes the i-th token into key [d_k], after RoPE, and value [d_v]; null: not wanted.
  virtual void Read(size_t i, float* key, float* value) const = 0;
};

// Observations that a policy needs. The engine computes no others: each costs time, and statistics
// kept per token between steps cost bytes of the budget.
struct PolicyNeeds {
  enum class Queries {
    kNone,    // no attention
    kWindow,  // of the last `window` queries of each ubatch, and of every decoded token
    kAll,     // of every query
  };
  Queries queries = Queries::kNone;
  size_t window = 32;
  double decay = 1.0;          // factor on the accumulated sum, per query
  bool entropy = false;        // ScoreContext::entropy as well
  bool only_text = false;      // queries of text tokens only, unless the ubatch has none
  bool text_weighted = false;  // weight of a query: the attention that text gives it (TGV)
  bool expected = false;   // instead of each query's softmax: exp of the Gaussian that they follow
  bool surprisal = false;  // ScoreContext::surprisal
  // Attention of rows on the lowest rung as well. Without it, their attention counts as 0, which
  // saves bytes on the shortest rows.
  bool lowest_rung = true;
  // Every token. Without it, a sample stands for tokens on the lowest rung that are not forgotten.
  // If all fit, it stands for all of them. While an answer grows, it stands for those with the
  // highest scores when all competed last.
  bool all_tokens = true;
};

// The competing tokens of one KV head, in the order of the conversation.
struct ScoreContext {
  size_t layer = 0;
  size_t kv_head = 0;
  uint64_t tokens_seen = 0;  // length of the conversation so far
  // Share of the conversation's tokens that fit on the lowest rung; 1: all fit, so only precision
  // is at stake.
  double room = 0;
  double text_share = 0;                  // of the conversation's tokens so far
  std::span<const uint32_t> token_index;  // [n] ascending: place of each token in it
  std::span<const TokenInfo> tokens;      // [n]
  std::span<const float> stands_for;      // [n] tokens, itself included; empty: one each

  const TokenRows* rows = nullptr;  // [n]
  size_t d_k = 0;
  size_t d_v = 0;

  // Empty unless PolicyNeeds asks for them.
  std::span<const float> attention;  // [n] softmax weight, mean over the query group, summed over
                                     // the queries with PolicyNeeds::decay
  std::span<const float> entropy;    // [n] 0 to 1: -sum_t p_t ln p_t / ln T over the T queries
                                     // observed, p_t being each query's share of `attention`
  std::span<const float> surprisal;  // [n] how surprising the model found the tokens around: mean
                                     // of -ln p, as a standard score over the conversation. NaN
                                     // where it is unknown, as in pictures and answers; empty if
                                     // it is unknown everywhere.
};

// Stateless and thread-safe.
class Policy {
 public:
  virtual ~Policy() = default;

  virtual PolicyNeeds needs() const { return {}; }

  // Tokens with higher scores are kept longer and more precisely. REQUIRES: scores.size() ==
  // token_index.size().
  virtual void Score(const ScoreContext& context, std::span<float> scores) const = 0;

  // For policies whose scores are errors (PolicyInfo::scores_are_errors): also sets the error that
  // weighs a token's precision, if it differs from the score.
  virtual void ScoreAll(const ScoreContext& context, std::span<float> scores,
                        std::span<float> precision_errors) const {
    Score(context, scores);
    std::ranges::copy(scores, precision_errors.begin());
  }
};

struct PolicyInfo {
  std::string_view name;
  std::string_view summary;
  bool evicts;
  // Scores are the squared errors, in the units of the values, from forgetting a token. Else only
  // their order counts.
  bool scores_are_errors = false;
  // Scores of different heads can be compared, so the budget may be pooled over them.
  bool comparable = false;
  // Defaults of the other options with this policy.
  std::string_view absorb = "none";
  std::string_view ladder = "none";
  Split split = Split::kUniform;
  std::span<const SpecOption> options;
  // `values` has one entry per option, in the order of `options`.
  std::unique_ptr<Policy> (*create)(std::span<const double> values);
};

// Tokens that stay regardless of their score, for every evicting policy.
struct AlwaysKeep {
  size_t sinks = 0;   // first tokens of the conversation
  size_t window = 0;  // most recent tokens
};

struct PolicyChoice {
  const PolicyInfo* info = nullptr;
  std::shared_ptr<const Policy> policy;
  AlwaysKeep keep;
};

// All policies, in the order in which users see them.
std::span<const PolicyInfo* const> Policies();

// Common options of all evicting policies.
std::span<const SpecOption> CommonPolicyOptions();

// The description of a policy by name. kInvalidArgument with the valid names.
Result<const PolicyInfo*> FindPolicy(std::string_view name);

// The policy itself; kInvalidArgument for unknown options and values out of range.
Result<PolicyChoice> MakePolicy(const PolicySpec& spec);

}  // namespace rkv

#endif  // RETENTIVEKV_POLICIES_POLICY_H_
