// The parts of a picture's cells, and of a layer's tokens, that heads hold.
#ifndef RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_
#define RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "retentivekv/inspect.h"
#include "retentivekv/status.h"

namespace rkv::app {

// Selects heads: all, those of a layer, one, or one KV head of every layer.
struct HeadFilter {
  std::optional<size_t> layer;
  std::optional<size_t> kv_head;

  bool takes(const HeadInspection& head) const {
    return (!layer.has_value() || *layer == head.layer) &&
           (!kv_head.has_value() || *kv_head == head.kv_head);
  }
};

// kInvalidArgument, with the possible range, if the model has no such layer or KV head.
Status CheckFilter(const CacheShape& shape, const HeadFilter& filter);

// "layer 2, KV head 0", "mean over 16 heads".
std::string Describe(const HeadFilter& filter, size_t n_heads);

// A cell of a picture; shares are over the selected heads.
struct Cell {
  std::vector<double> rungs;  // share of heads that hold it, by rung
  double absorbed = 0;        // share of heads where a state absorbed it
  double forgotten = 0;       // share of heads where nothing remains of it
  double softmax = 0;         // of the last answer, mean over heads; without the share of its state
  int64_t root = -1;          // the token that absorbed it in the largest number of heads; -1: none

  double held() const;
  // Index of its commonest rung over heads; rungs.size() for absorbed, rungs.size() + 1 for
  // forgotten. Of equals, the most precise.
  size_t usual() const;
  // Mean place on the ladder: 1 for the most precise rung in all heads, 0 for held in none.
  double precision() const;
};

struct CellMap {
  MediaSpan span;
  size_t n_heads = 0;
  std::vector<std::string> rungs;  // names, the most precise first
  std::vector<Cell> cells;         // row by row
  double max_softmax = 0;          // of any cell

  // The softmax share for which read() returns 1: the largest of any cell, but at least a tenth of
  // a uniform share, so that noise does not stand out.
  double read_scale() const;
  double read(const Cell& cell) const { return cell.softmax / read_scale(); }
};

CellMap MakeCellMap(const Inspection& inspection, const MediaSpan& span, const HeadFilter& filter);

// The pictures among the media, in order.
std::vector<MediaSpan> Pictures(const Inspection& inspection);

// Means over the KV heads of one layer, or of several.
struct LayerSummary {
  size_t n_heads = 0;
  std::vector<double> rungs;  // tokens on each rung
  double absorbed = 0;        // tokens
  double forgotten = 0;       // tokens
  double states = 0;          // number of states
  double picture_share = 0;   // share of the last answer's softmax on the picture's exact tokens
  double audio_share = 0;
  double text_share = 0;
  double state_share = 0;
};

LayerSummary Summarise(const Inspection& inspection, const HeadFilter& filter);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_
