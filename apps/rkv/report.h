// Reports the cost of an answer and the contents of the cache, as text and as JSON.
#ifndef RETENTIVEKV_APPS_RKV_REPORT_H_
#define RETENTIVEKV_APPS_RKV_REPORT_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "retentivekv/engine.h"

namespace rkv::app {

// "cache: holds 5.6 of 28.0 MiB (20 % kept, 80 % saved), policy ..."
std::string DescribeCache(const Conversation& conversation);

// "read 130 tokens in 0.05 s (2600 t/s), ..."
std::string DescribeSpeed(const AnswerResult& answer);

// The `kv` object of --kv-report.
nlohmann::json CacheJson(const Conversation& conversation);

// Writes --kv-report. Does nothing without a path.
Status WriteReport(const std::string& path, const Conversation& conversation,
                   const AnswerResult& answer);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_REPORT_H_
