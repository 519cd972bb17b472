// Ends an answer before one of several texts, which may arrive in pieces.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_STOP_FILTER_H_
#define RETENTIVEKV_APPS_RKV_SERVE_STOP_FILTER_H_

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rkv::app {

class StopFilter {
 public:
  // Empty stops are ignored.
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
    std::erase(stops_, "");
  }

  // Takes the next piece and returns the text to show. Holds back any possible beginning of a stop,
  // and returns nothing from a stop on.
  std::string Push(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    size_t end = std::string::npos;
    for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
    if (end != std::string::npos) {
      stopped_ = true;
      held_.resize(end);
      return std::exchange(held_, {});
    }
    size_t keep = 0;
    for (const std::string& stop : stops_) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
      }
    }
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
    return shown;
  }

  // The text held back, at the end of the answer.
  std::string Finish() { return std::exchange(held_, {}); }

  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_STOP_FILTER_H_
