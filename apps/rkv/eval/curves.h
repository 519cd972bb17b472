// Plots the results of a suite: quality against bytes.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_
#define RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_

#include <string>

#include "eval/table.h"

namespace rkv::app {

// An SVG with a row for each regime: accuracy and KL against the bytes held, as a share of a full
// f16 cache. Axes are logarithmic except that of accuracy. Each policy has a line with 95 % bars,
// and each full cache of quantised elements has a point. Other controls are only in the tables.
std::string SvgCurves(const EvalHeader& header, const SuiteResult& result);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_
