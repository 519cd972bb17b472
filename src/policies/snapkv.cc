// snapkv: an observation window with pooling (SnapKV; Li et al. 2024, arXiv 2404.14469). A token's
// score is the attention of the last queries, pooled over its neighbours, so that passages stay and
// not single tokens. In the paper, the last queries of the prompt compress it once. Here the
// queries of answers count too and older ones fade out, so a conversation can continue. Neighbours
// are neighbours in the conversation: two tokens do not become neighbours when the tokens between
// them are forgotten. An average is over the remaining neighbours.
#include "policies/score_math.h"

namespace rkv {

namespace {

class SnapKvPolicy : public Policy {
 public:
  SnapKvPolicy(size_t queries, size_t pool, bool average)
      : queries_(queries), reach_(pool / 2), average_(average) {}

  PolicyNeeds needs() const override {
    return {
        .queries = PolicyNeeds::Queries::kWindow, .window = queries_, .decay = DecayOver(queries_)};
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    const std::span<const uint32_t> place = context.token_index;
    size_t first = 0;  // the first neighbour of i
    size_t end = 0;    // past the last neighbour
    for (size_t i = 0; i < scores.size(); ++i) {
      while (place[i] - place[first] > reach_) ++first;
      while (end < place.size() && (end <= i || place[end] - place[i] <= reach_)) ++end;
      scores[i] = Pool(context.attention.subspan(first, end - first));
    }
  }

 private:
  float Pool(std::span<const float> neighbours) const {
    double largest = 0;
    double sum = 0;
    for (const double attention : neighbours) {
      largest = std::max(largest, attention);
      sum += attention;
    }
    return ToScore(average_ ? sum / static_cast<double>(neighbours.size()) : largest);
  }

  size_t queries_;
  size_t reach_;
  bool average_;
};

constexpr SpecOption kOptions[] = {
    {.name = "queries",
     .default_value = 32,
     .min = 1,
     .max = 4096,
     .help = "last queries to consider; older ones fade out",
     .whole = true},
    {.name = "pool",
     .default_value = 7,
     .min = 1,
     .max = 255,
     .help = "width of the pooling over neighbours (rounded up to odd)",
     .whole = true},
    {.name = "average",
     .default_value = 0,
     .min = 0,
     .max = 1,
     .help = "1: average pooling; 0: max pooling",
     .whole = true},
};

}  // namespace

extern const PolicyInfo kSnapKvPolicy = {
    .name = "snapkv",
    .summary = "keep the tokens that the last queries attended to most, and their neighbours",
    .evicts = true,
    .comparable = true,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<SnapKvPolicy>(static_cast<size_t>(values[0]),
                                            static_cast<size_t>(values[1]), values[2] != 0);
    },
};

}  // namespace rkv
