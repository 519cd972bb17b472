// rkv serve: an OpenAI-compatible server.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "commands.h"
#include "flags.h"
#include "reference_model.h"
#include "serve/http_server.h"

namespace rkv::app {

namespace {

constexpr const char* kBundledModel = "reference";

struct ServeFlags {
  CommonFlags common;
  HttpOptions http;
  GuardOptions guard;
  int n_parallel = 4;
  std::string cache = "2GiB";
  std::string park;
  std::string park_max = "10GiB";
  std::string max_body = "64MiB";
  std::string media_cache = "64MiB";
  size_t max_waiting = 256;
  int max_wait = 60;
  bool trace = false;
};

// Raises the file limit: each connection is a file.
void AllowManyFiles() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Signals that end the server, for a thread that waits for them.
sigset_t EndSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  return signals;
}

class ServeCommand {
 public:
  explicit ServeCommand(ServeFlags& flags) : flags_(flags) {}

  Status Run() {
    RKV_RETURN_IF_ERROR(Configure());
    // Blocks the signals before any thread starts, so that all threads inherit the mask.
    const sigset_t signals = EndSignals();
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    // A write beyond the file size limit then fails, and does not end the process.
    std::signal(SIGXFSZ, SIG_IGN);
    HttpServer server(flags_.http, *std::move(guard_));
    RKV_ASSIGN_OR_RETURN(const int port, server.Bind());
    std::thread listening([&server] { server.Listen(); });
    const Status status = Serve(server, port, signals);
    server.Stop();
    listening.join();
    scheduler_.reset();
    return status;
  }

 private:
  Status Configure() {
    RKV_RETURN_IF_ERROR(StartLogging(flags_.common));
    CommonFlags& common = flags_.common;
    RKV_ASSIGN_OR_RETURN(flags_.http.defaults.cache, ParseCacheOptions(common));
    RKV_RETURN_IF_ERROR(ReadFlagFiles(common));
    flags_.http.defaults.sampling = common.sampling;
    flags_.guard.host = flags_.http.host;
    RKV_ASSIGN_OR_RETURN(guard_, RequestGuard::Make(flags_.guard));
    if (common.n_predict > 0) flags_.http.defaults.max_tokens = common.n_predict;
    RKV_ASSIGN_OR_RETURN(flags_.http.max_body_bytes, ParseBytes("--max-body", flags_.max_body));
    RKV_ASSIGN_OR_RETURN(common.engine.media_cache_bytes,
                         ParseBytes("--media-cache", flags_.media_cache));
    RKV_ASSIGN_OR_RETURN(scheduler_options_.memory_bytes, ParseBytes("--memory", flags_.cache));
    scheduler_options_.max_waiting = flags_.max_waiting;
    scheduler_options_.max_wait = std::chrono::seconds(flags_.max_wait);
    scheduler_options_.trace = flags_.trace;
    common.engine.max_conversations = flags_.n_parallel;
    if (!flags_.park.empty()) {
      RKV_ASSIGN_OR_RETURN(const size_t park_max, ParseBytes("--park-max", flags_.park_max));
      RKV_ASSIGN_OR_RETURN(ParkStore store, ParkStore::Open(flags_.park, park_max));
      store_ = std::make_unique<ParkStore>(std::move(store));
    }
    flags_.http.bundled_model = common.engine.model.empty();
    if (flags_.http.bundled_model) {
      RKV_RETURN_IF_ERROR(UseReferenceModel(common.engine));
    }
    if (flags_.http.model_name.empty()) {
      flags_.http.model_name = flags_.http.bundled_model
                                   ? kBundledModel
                                   : std::filesystem::path(common.engine.model).stem().string();
    }
    AllowManyFiles();
    return OkStatus();
  }

  Status Serve(HttpServer& server, int port, const sigset_t& signals) {
    flags_.common.engine.on_notice = [](std::string_view notice) { spdlog::info("{}", notice); };
    RKV_ASSIGN_OR_RETURN(auto engine, LoadEngine(flags_.common));
    // Reject an impossible policy or budget at start-up instead of on every request.
    const auto trial = engine->NewConversation(flags_.http.defaults.cache);
    if (!trial.ok()) return trial.status();
    RKV_RETURN_IF_ERROR(engine->CheckSampling(flags_.http.defaults.sampling));
    const std::string model = engine->model_description();
    scheduler_ =
        std::make_unique<Scheduler>(std::move(engine), std::move(store_), scheduler_options_);
    server.SetScheduler(scheduler_.get());
    const CacheOptions& cache = flags_.http.defaults.cache;
    std::cout << fmt::format(
        "serving {} ({}) at http://{}:{}\npolicy {}, {}, {} answers at once, {} for all caches{}\n",
        flags_.http.model_name, model, flags_.http.host, port, ToString(cache.policy),
        cache.budget.unlimited() ? "no budget" : "budget " + ToString(cache.budget),
        flags_.n_parallel, flags_.cache,
        flags_.park.empty() ? "" : ", idle conversations in " + flags_.park);
    std::cout.flush();
    int signal = 0;
    ::sigwait(&signals, &signal);
    return OkStatus();
  }

  ServeFlags& flags_;
  std::optional<RequestGuard> guard_;
  SchedulerOptions scheduler_options_;
  std::unique_ptr<ParkStore> store_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace

void AddServeCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("serve", "serve conversations over HTTP, with OpenAI's API");
  auto flags = std::make_shared<ServeFlags>();
  AddModelFlags(*command, flags->common);
  AddSamplingFlags(*command, flags->common);
  AddCacheFlags(*command, flags->common);
  AddLogFlags(*command, flags->common);
  const auto add = [command](const std::string& names, auto& value, const std::string& help) {
    return command->add_option(names, value, help)
        ->envname(EnvironmentName(names.substr(names.rfind("--"))));
  };
  const auto add_list = [&add](const std::string& name, std::vector<std::string>& values,
                               const std::string& help) {
    return Repeatable(
        add(name, values, help + "; several: repeat, or separate by commas")->delimiter(','));
  };
  const auto add_switch = [command](const std::string& name, bool& value, const std::string& help) {
    command->add_flag(name, value, help)->envname(EnvironmentName(name));
  };
  add("--host", flags->http.host, "address to listen on (127.0.0.1)")->type_name("HOST");
  add("--port", flags->http.port, "port to listen on (8080); 0: any free port")
      ->check(CLI::Range(0, 65535))
      ->type_name("N");
  add("--parallel", flags->n_parallel, "answers generated at once, -np (4)")
      ->check(CLI::Range(1, 256))
      ->type_name("N");
  add("--memory", flags->cache, "memory limit of all caches together (2GiB)")->type_name("SIZE");
  add("--park", flags->park, "folder to park idle conversations in; they survive a restart")
      ->type_name("DIR");
  add("--park-max", flags->park_max, "size limit of the --park folder (10GiB)")->type_name("SIZE");
  add("--max-waiting", flags->max_waiting, "maximum number of waiting requests (256); more get 503")
      ->check(kNonNegative)
      ->type_name("N");
  add("--max-wait", flags->max_wait, "seconds that a request waits at most (60); then it gets 503")
      ->check(kPositive)
      ->type_name("S");
  add("--max-body", flags->max_body, "maximum size of a request (64MiB)")->type_name("SIZE");
  add("--timeout", flags->http.timeout_seconds,
      "seconds until a silent client is disconnected, -to (10)")
      ->check(kPositive)
      ->type_name("S");
  add("--media-cache", flags->media_cache, "size limit of the cache of encoded pictures (64MiB)")
      ->type_name("SIZE");
  add("--api-key", flags->http.api_key, "API key that clients must send; default: none")
      ->type_name("KEY");
  add_list(
      "--allow-host", flags->guard.allowed_hosts,
      "host name of the server for clients, besides IP addresses, localhost and --host; *: any")
      ->type_name("NAME");
  add_list("--allow-origin", flags->guard.allowed_origins,
           "origin of pages that may use the server, such as https://chat.example.org; *: any")
      ->type_name("ORIGIN");
  add("-a,--alias", flags->http.model_name, "name of the model for clients; default: its file name")
      ->type_name("NAME");
  add("--path", flags->http.static_files, "folder of files to serve at /")
      ->check(CLI::ExistingDirectory)
      ->type_name("DIR");
  add_switch("--allow-remote-images", flags->http.allow_remote_images,
             "fetch the pictures of http: and https: URLs in requests");
  add_switch("--trace", flags->trace,
             "trace absorbed and read tokens, for /conversations/ID/memory");
  command->footer(PolicyHelp());
  command->callback([flags, &exit_code] {
    const Status status = ServeCommand(*flags).Run();
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
