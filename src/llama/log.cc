#include "llama/log.h"

#include <llama.h>
#include <mtmd-helper.h>
#include <mtmd.h>
#include <spdlog/spdlog.h>

#include <mutex>

#include "base/strings.h"

namespace rkv {

namespace {

struct Capture {
  std::mutex mutex;
  LlamaErrorLog* innermost = nullptr;
  std::string first_error;  // of the innermost log
};

Capture& TheCapture() {
  static Capture capture;
  return capture;
}

// "llama_model_load: error loading model: X" -> "X": names of functions do not help users.
std::string_view StripFunctionNames(std::string_view text) {
  while (true) {
    const size_t colon = text.find(": ");
    if (colon == std::string_view::npos) return text;
    const std::string_view head = text.substr(0, colon);
    const bool function = head.find('_') != std::string_view::npos &&
                          head.find_first_of(" '\"/") == std::string_view::npos;
    if (!function && head != "error loading model" && head != "operator()") return text;
    text.remove_prefix(colon + 2);
  }
}

void OnLog(ggml_log_level level, const char* text, void*) {
  const std::string_view line = TrimSpace(text);
  // llama.cpp's progress bar consists of dots.
  if (line.find_first_not_of('.') == std::string_view::npos) return;
  if (level == GGML_LOG_LEVEL_ERROR) {
    Capture& capture = TheCapture();
    const std::lock_guard lock(capture.mutex);
    if (capture.innermost != nullptr && capture.first_error.empty()) {
      capture.first_error = StripFunctionNames(line);
    }
  }
  const bool notable = level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN;
  spdlog::log(notable ? spdlog::level::debug : spdlog::level::trace, "llama.cpp: {}", line);
}

}  // namespace

void CaptureLlamaLogs() {
  llama_log_set(OnLog, nullptr);
  mtmd_helper_log_set(OnLog, nullptr);
}

LlamaErrorLog::LlamaErrorLog() {
  CaptureLlamaLogs();
  Capture& capture = TheCapture();
  const std::lock_guard lock(capture.mutex);
  outer_ = capture.innermost;
  capture.innermost = this;
  capture.first_error.clear();
}

LlamaErrorLog::~LlamaErrorLog() {
  Capture& capture = TheCapture();
  const std::lock_guard lock(capture.mutex);
  capture.innermost = outer_;
  capture.first_error.clear();
}

std::string LlamaErrorLog::Reason() const {
  Capture& capture = TheCapture();
  const std::lock_guard lock(capture.mutex);
  return capture.first_error.empty() ? "" : ": " + capture.first_error;
}

}  // namespace rkv
