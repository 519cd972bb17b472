// The HTTP server in front of a Scheduler.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_HTTP_SERVER_H_
#define RETENTIVEKV_APPS_RKV_SERVE_HTTP_SERVER_H_

#include <atomic>
#include <memory>
#include <string>

#include "serve/api.h"
#include "serve/request_guard.h"
#include "serve/scheduler.h"

namespace rkv::app {

class PollServer;

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any free port
  std::string api_key;
  std::string model_name;      // as clients see it
  std::string static_files;    // folder served at / instead of the page; empty: none
  bool bundled_model = false;  // the page then offers samples that this model can read
  size_t max_body_bytes = size_t{64} << 20;
  int timeout_seconds = 10;  // for a client that neither sends nor reads
  bool allow_remote_images = false;
  GenerationRequest defaults;
};

class HttpServer {
 public:
  HttpServer(const HttpOptions& options, RequestGuard guard);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and returns the port. kInternal if it cannot be bound.
  Result<int> Bind();
  // Answers requests until Stop(); with 503 until a scheduler is set.
  void Listen();
  // From any thread, while or before another one listens. Cancels answers in progress.
  void Stop();
  // From any thread.
  void SetScheduler(Scheduler* scheduler) { scheduler_ = scheduler; }

 private:
  class Handlers;

  HttpOptions options_;
  const RequestGuard guard_;
  std::atomic<Scheduler*> scheduler_ = nullptr;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> listened_ = false;  // Listen() has ended
  std::unique_ptr<PollServer> server_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_HTTP_SERVER_H_
