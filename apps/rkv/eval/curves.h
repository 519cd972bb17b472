// The results of a suite as curves: quality against bytes.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_
#define RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_

#include <string>

#include "eval/table.h"

namespace rkv::app {

// An SVG with a row for each regime: accuracy and KL against the bytes held, as a share of a full
// f16 cache, both on log axes but for accuracy. A line for each policy, with bars of 95 %, and a
// point for each full cache of quantised elements; other controls are only in the tables.
std::string SvgCurves(const EvalHeader& header, const SuiteResult& result);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_CURVES_H_
