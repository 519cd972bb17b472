// Describes the contents of a cache as text and as JSON.
#ifndef RETENTIVEKV_APPS_RKV_INSPECT_TEXT_H_
#define RETENTIVEKV_APPS_RKV_INSPECT_TEXT_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "inspect/cell_map.h"
#include "retentivekv/inspect.h"

namespace rkv::app {

// "173.9 KiB"
std::string FormatBytes(uint64_t bytes);

// "f16 3.0 KiB, q2 1.1 KiB, states 0.5 KiB, metadata 2.0 KiB"
std::string DescribeBytes(const CacheStats& stats);

// All of the stats, a line per subject.
std::string StatsText(const CacheStats& stats);

// The character of Cell::usual().
char CellCharacter(const CellMap& map, size_t usual);

// The cells as characters, with a legend: the commonest state over heads, the number of heads that
// hold the cell, and its softmax share. Maps stand side by side if they fit.
std::string MapText(const CellMap& map, bool has_shares);

// A row for each layer that `filter` selects, and one for all of them.
std::string LayerTable(const Inspection& inspection, const HeadFilter& filter);

nlohmann::json InspectionJson(const Inspection& inspection);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INSPECT_TEXT_H_
