// Writes the counters of a server as text for Prometheus.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_METRICS_H_
#define RETENTIVEKV_APPS_RKV_SERVE_METRICS_H_

#include <string>

#include "serve/scheduler.h"

namespace rkv::app {

std::string MetricsText(const SchedulerStats& stats);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_METRICS_H_
