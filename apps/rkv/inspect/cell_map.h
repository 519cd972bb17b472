// What heads hold of the cells of a picture, and of the tokens of a layer.
#ifndef RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_
#define RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "retentivekv/inspect.h"
#include "retentivekv/status.h"

namespace rkv::app {

// Which heads are looked at: all, those of a layer, one, or one KV head of every layer.
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

// A cell of a picture; shares are of the heads that are looked at.
struct Cell {
  std::vector<double> rungs;  // share of heads that hold it on each rung
  double absorbed = 0;        // share of heads where a state took it in
  double forgotten = 0;       // share of heads where it left no trace
  double softmax = 0;         // of the last answer, mean over heads; of itself, not of its state
  int64_t root = -1;          // token that most heads absorbed it into; -1: none

  double held() const;
  // Index of a rung, rungs.size() for absorbed or rungs.size() + 1 for forgotten: what it is in
  // most heads; of equals, the most precise.
  size_t usual() const;
  // Mean place on the ladder: 1 for the most precise rung everywhere, 0 for held nowhere.
  double precision() const;
};

struct CellMap {
  MediaSpan span;
  size_t n_heads = 0;
  std::vector<std::string> rungs;  // names, the most precise first
  std::vector<Cell> cells;         // row by row
  double max_softmax = 0;          // of any cell

  // The share of the softmax that counts as 1 for read(): the largest of any cell, but at least a
  // tenth of what each would have if nothing else were read, so that noise does not stand out.
  double read_scale() const;
  double read(const Cell& cell) const { return cell.softmax / read_scale(); }
};

CellMap MakeCellMap(const Inspection& inspection, const MediaSpan& span, const HeadFilter& filter);

// The pictures among the media, in order.
std::vector<MediaSpan> Pictures(const Inspection& inspection);

// Means over the KV heads of a layer, or of several.
struct LayerSummary {
  size_t n_heads = 0;
  std::vector<double> rungs;  // tokens on each
  double absorbed = 0;        // tokens
  double forgotten = 0;       // tokens
  double states = 0;          // how many
  double picture_share = 0;   // of the softmax in the last answer, read from exact tokens
  double audio_share = 0;
  double text_share = 0;
  double state_share = 0;
};

LayerSummary Summarise(const Inspection& inspection, const HeadFilter& filter);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INSPECT_CELL_MAP_H_
