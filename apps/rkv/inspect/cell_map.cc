// Computes the states of a picture's cells over heads, and the summary of a layer.
#include "inspect/cell_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace rkv::app {

Status CheckFilter(const CacheShape& shape, const HeadFilter& filter) {
  const size_t n_layers = shape.layers.size();
  if (filter.layer.has_value() && *filter.layer >= n_layers) {
    return InvalidArgument(fmt::format("--layer {} does not exist: the model has layers 0 to {}",
                                       *filter.layer, n_layers - 1));
  }
  size_t n_heads = 0;
  for (size_t layer = 0; layer < n_layers; ++layer) {
    if (filter.layer.value_or(layer) == layer) {
      n_heads = std::max(n_heads, shape.layers[layer].n_kv_head);
    }
  }
  if (filter.kv_head.has_value() && *filter.kv_head >= n_heads) {
    return InvalidArgument(fmt::format(
        "--head {} does not exist: {} has KV heads 0 to {}", *filter.kv_head,
        filter.layer.has_value() ? "the layer" : "the model", n_heads == 0 ? 0 : n_heads - 1));
  }
  return OkStatus();
}

std::string Describe(const HeadFilter& filter, size_t n_heads) {
  std::string text;
  if (filter.layer.has_value()) text = fmt::format("layer {}", *filter.layer);
  if (filter.kv_head.has_value()) {
    text += fmt::format("{}KV head {}", text.empty() ? "" : ", ", *filter.kv_head);
  }
  if (n_heads == 1) return text.empty() ? "one head" : text;
  return text + fmt::format("{}mean over {} heads", text.empty() ? "" : ", ", n_heads);
}

double Cell::held() const {
  double sum = 0;
  for (const double share : rungs) sum += share;
  return sum;
}

size_t Cell::usual() const {
  std::vector<double> shares = rungs;
  shares.push_back(absorbed);
  shares.push_back(forgotten);
  return static_cast<size_t>(std::ranges::max_element(shares) - shares.begin());
}

double Cell::precision() const {
  double sum = 0;
  const auto n = static_cast<double>(rungs.size());
  for (size_t i = 0; i < rungs.size(); ++i) sum += rungs[i] * (1 - static_cast<double>(i) / n);
  return sum;
}

double CellMap::read_scale() const {
  return std::max(max_softmax, 0.1 / static_cast<double>(std::max<size_t>(1, cells.size())));
}

CellMap MakeCellMap(const Inspection& inspection, const MediaSpan& span, const HeadFilter& filter) {
  CellMap map;
  map.span = span;
  for (const Rung& rung : inspection.rungs) map.rungs.push_back(ToString(rung));
  for (const HeadInspection& head : inspection.heads) map.n_heads += filter.takes(head) ? 1 : 0;
  const double part = map.n_heads == 0 ? 0 : 1 / static_cast<double>(map.n_heads);
  for (uint64_t i = 0; i < span.n_tokens(); ++i) {
    const uint64_t token = span.first_token + i;
    Cell& cell = map.cells.emplace_back();
    cell.rungs.resize(map.rungs.size());
    std::map<int64_t, int> roots;
    for (const HeadInspection& head : inspection.heads) {
      if (!filter.takes(head) || token >= head.rung.size()) continue;
      if (head.rung[token] != HeadInspection::kForgotten) {
        cell.rungs[head.rung[token]] += part;
      } else if (head.root[token] >= 0) {
        cell.absorbed += part;
        ++roots[head.root[token]];
      } else {
        cell.forgotten += part;
      }
      const auto share = static_cast<double>(head.share[token]);
      if (std::isfinite(share)) cell.softmax += part * share;
    }
    int max_heads = 0;
    for (const auto& [root, n] : roots) {
      if (n > max_heads) cell.root = root;
      max_heads = std::max(max_heads, n);
    }
    map.max_softmax = std::max(map.max_softmax, cell.softmax);
  }
  return map;
}

std::vector<MediaSpan> Pictures(const Inspection& inspection) {
  std::vector<MediaSpan> pictures;
  for (const MediaSpan& span : inspection.media) {
    if (span.modality == Modality::kImage) pictures.push_back(span);
  }
  return pictures;
}

LayerSummary Summarise(const Inspection& inspection, const HeadFilter& filter) {
  LayerSummary sum;
  sum.rungs.resize(inspection.rungs.size());
  std::vector<Modality> modality(inspection.stats.tokens_seen, Modality::kText);
  for (const MediaSpan& span : inspection.media) {
    for (uint64_t i = 0; i < span.n_tokens(); ++i) {
      if (span.first_token + i < modality.size()) modality[span.first_token + i] = span.modality;
    }
  }
  for (const HeadInspection& head : inspection.heads) {
    if (!filter.takes(head)) continue;
    ++sum.n_heads;
    for (size_t token = 0; token < head.rung.size(); ++token) {
      if (head.rung[token] != HeadInspection::kForgotten) {
        ++sum.rungs[head.rung[token]];
      } else {
        ++(head.root[token] >= 0 ? sum.absorbed : sum.forgotten);
      }
      const Modality kind = token < modality.size() ? modality[token] : Modality::kText;
      (kind == Modality::kImage   ? sum.picture_share
       : kind == Modality::kAudio ? sum.audio_share
                                  : sum.text_share) += static_cast<double>(head.share[token]);
    }
    sum.states += static_cast<double>(head.states.size());
    for (const StateInspection& state : head.states) {
      sum.state_share += static_cast<double>(state.share);
    }
  }
  const double n = sum.n_heads == 0 ? 1 : static_cast<double>(sum.n_heads);
  for (double& tokens : sum.rungs) tokens /= n;
  for (double* value : {&sum.absorbed, &sum.forgotten, &sum.states, &sum.picture_share,
                        &sum.audio_share, &sum.text_share, &sum.state_share}) {
    *value /= n;
  }
  return sum;
}

}  // namespace rkv::app
