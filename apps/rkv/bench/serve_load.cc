// Measures `rkv bench --serve`: each cache has its own scheduler and memory limit, and all caches
// have the same clients and texts.
#include "bench/serve_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <set>

#include "lab/bench.h"
#include "serve/digest.h"
#include "serve/scheduler.h"

namespace rkv::app {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kQuestion = "What is the track?";
constexpr size_t kFullConversations = 4;  // conversations that fit by default
constexpr size_t kMediaCacheBytes = size_t{64} << 20;
constexpr auto kForEver = std::chrono::hours(24 * 365);
constexpr auto kLookAgain = std::chrono::milliseconds(100);

const char* const kWords[] = {"red",   "blue", "green", "black", "white", "north",
                              "south", "east", "west",  "one",   "two",   "three",
                              "four",  "five", "six",   "seven", "table", "form",
                              "name",  "date", "city",  "track", "level", "score"};

// A folder that is removed at the end.
class ParkFolder {
 public:
  explicit ParkFolder(const std::string& parent)
      : path_((parent.empty() ? fs::temp_directory_path() : fs::path(parent)) /
              ("rkv-bench-" + RandomHex(8))) {}
  ~ParkFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  ParkFolder(const ParkFolder&) = delete;
  ParkFolder& operator=(const ParkFolder&) = delete;

  std::string For(size_t cache) const { return (path_ / std::to_string(cache)).string(); }

 private:
  fs::path path_;
};

Message User(std::string text, const std::vector<MediaFile>& pictures = {}) {
  Message message{.role = "user", .parts = {}};
  for (const MediaFile& picture : pictures) {
    message.parts.push_back({.text = {}, .media = picture});
  }
  message.parts.push_back({.text = std::move(text), .media = {}});
  return message;
}

// n words; they depend on the seed.
std::string Words(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  for (size_t i = 0; i < n; ++i) text += fmt::format("{} ", kWords[random() % std::size(kWords)]);
  return text;
}

// Texts of about n_tokens tokens, different for each client.
std::vector<std::string> MakeTexts(const Engine& engine, size_t n_tokens, int n, uint64_t seed) {
  // The tokens of a word depend on the words around it, so a sample is counted first.
  const size_t n_sample = n_tokens == 0 ? 0 : std::clamp<size_t>(n_tokens, 16, 1024);
  const size_t n_sampled = engine.Tokenize(Words(n_sample, seed))->size();
  const size_t n_words = n_sample == 0 ? 0 : (n_tokens * n_sample + n_sampled - 1) / n_sampled;
  std::vector<std::string> texts;
  for (int client = 0; client < n; ++client) {
    texts.push_back(Words(n_words, seed + static_cast<uint64_t>(client)));
  }
  return texts;
}

// A request and its client.
struct Asked {
  size_t client = 0;
  std::shared_ptr<Ticket> ticket;
};

// A cache, the scheduler that serves it, and its clients.
struct Server {
  std::unique_ptr<Scheduler> scheduler;
  std::vector<std::vector<Message>> clients;  // the messages of each, with their answers
  size_t n_held = 0;                          // conversations that fit
  size_t n_depth_tokens = 0;                  // of all clients, after their first messages
};

class ServeMeasuring {
 public:
  ServeMeasuring(const ServeLoadPlan& plan, const BenchProgress& progress)
      : plan_(plan), progress_(progress), parked_(plan.park) {
    const BenchPlan& bench = plan.bench;
    const size_t n_caches = bench.caches.size();  // the number of client counts is at most the same
    n_steps_ = bench.models.size() * bench.n_threads.size() * bench.n_ubatch.size() *
               bench.depths.size() * bench.generations.size() * n_caches *
               (1 + n_caches * (1 + static_cast<size_t>(bench.repetitions)));
  }

  Result<std::vector<BenchRow>> Run() {
    for (const std::string& file : plan_.bench.models) {
      progress_("loading model", 0);
      {
        RKV_ASSIGN_OR_RETURN(const auto model, BenchModel::Load(file));
        info_ = {.file = file,
                 .description = model->description(),
                 .size = model->size(),
                 .n_params = model->n_params(),
                 .read_bytes = model->read_bytes()};
      }
      for (const int n_threads : plan_.bench.n_threads) {
        for (const int n_ubatch : plan_.bench.n_ubatch) {
          engine_options_ = {};
          engine_options_.model = file;
          engine_options_.mmproj = plan_.mmproj;
          engine_options_.n_ubatch = n_ubatch;
          engine_options_.n_threads = n_threads;
          engine_options_.max_conversations = std::min(plan_.n_parallel, n_ubatch);
          engine_options_.media_cache_bytes = kMediaCacheBytes;
          for (const int depth : plan_.bench.depths) {
            for (const int n : plan_.bench.generations) {
              RKV_RETURN_IF_ERROR(Measure(static_cast<size_t>(depth), n));
            }
          }
        }
      }
    }
    return std::move(rows_);
  }

 private:
  Status Measure(size_t depth, int n) {
    RKV_RETURN_IF_ERROR(Plan(depth, n));
    servers_.clear();
    std::set<size_t> loads;
    for (size_t c = 0; c < plan_.bench.caches.size(); ++c) {
      RKV_RETURN_IF_ERROR(StartServer(c));
      loads.insert(servers_.back().n_held);
    }
    for (const size_t n_clients : loads) {
      for (size_t c = 0; c < servers_.size(); ++c) RKV_RETURN_IF_ERROR(Open(c, n_clients));
      RKV_RETURN_IF_ERROR(MeasureTurns(n_clients, n));
    }
    servers_.clear();
    return OkStatus();
  }

  // Plans the clients' texts, and the memory for them.
  Status Plan(size_t depth, int n) {
    RKV_ASSIGN_OR_RETURN(const auto engine, Engine::Load(engine_options_));
    if (!plan_.pictures.empty() && !engine->takes_pictures()) {
      return InvalidArgument("pictures need the model's projector: pass it with --mmproj");
    }
    texts_ = MakeTexts(*engine, depth, engine_options_.max_conversations, plan_.bench.seed);
    const std::string& longest = *std::ranges::max_element(
        texts_, {}, [&](const std::string& text) { return engine->Tokenize(text)->size(); });
    const Message first = User(longest + kQuestion, plan_.pictures);
    const auto tokens = [&](const std::vector<Message>& messages) -> Result<size_t> {
      RKV_ASSIGN_OR_RETURN(const auto conversation, engine->NewConversation({}));
      RKV_RETURN_IF_ERROR(conversation->AddMessages(messages));
      return conversation->n_waiting_tokens();
    };
    RKV_ASSIGN_OR_RETURN(const size_t n_first, tokens({first}));
    Message answer{.role = "assistant", .parts = {{.text = "x", .media = {}}}};
    RKV_ASSIGN_OR_RETURN(const size_t n_second, tokens({first, answer, User(kQuestion)}));
    const auto n_turns = plan_.bench.caches.size() * static_cast<size_t>(plan_.bench.repetitions);
    n_growth_ = 1 + n_turns * (n_second - n_first + static_cast<size_t>(n));
    memory_bytes_ = plan_.memory_bytes;
    if (memory_bytes_ == 0) {
      RKV_ASSIGN_OR_RETURN(const auto conversation, engine->NewConversation({}));
      RKV_RETURN_IF_ERROR(conversation->AddMessages({&first, 1}));
      memory_bytes_ = kFullConversations * conversation->max_held_bytes(n_growth_);
    }
    return OkStatus();
  }

  Status StartServer(size_t c) {
    Show(fmt::format("counting conversations of {}", plan_.bench.caches[c].label()));
    RKV_ASSIGN_OR_RETURN(auto engine, Engine::Load(engine_options_));
    RKV_ASSIGN_OR_RETURN(ParkStore store, ParkStore::Open(parked_.For(c), 0));
    const SchedulerOptions options{.memory_bytes = memory_bytes_,
                                   .max_waiting = texts_.size(),
                                   .max_wait = kForEver,
                                   .trace = false};
    Server& server = servers_.emplace_back();
    server.scheduler = std::make_unique<Scheduler>(
        std::move(engine), std::make_unique<ParkStore>(std::move(store)), options);
    return CountHeld(c);
  }

  // Lets all clients ask at once for all tokens that they will ever get. The scheduler admits only
  // clients whose tokens fit to the end.
  Status CountHeld(size_t c) {
    Server& server = servers_[c];
    std::vector<std::shared_ptr<Ticket>> tickets;
    for (size_t client = 0; client < texts_.size(); ++client) {
      GenerationRequest request = Request(c, {FirstMessage(client)}, n_growth_);
      tickets.push_back(server.scheduler->Submit(std::move(request)));
    }
    // The scheduler answers the first call before it admits requests, the second one after.
    (void)server.scheduler->stats();
    (void)server.scheduler->stats();
    Status status;
    for (const auto& ticket : tickets) {
      const auto event = ticket->Next(std::chrono::milliseconds(0));
      if (event.has_value() && std::holds_alternative<Ticket::Admitted>(*event)) ++server.n_held;
      const auto* error = event.has_value() ? std::get_if<ApiError>(&*event) : nullptr;
      if (error != nullptr && status.ok()) status = InvalidArgument(error->message);
      ticket->Cancel();
    }
    for (SchedulerStats stats = server.scheduler->stats(); stats.running + stats.waiting > 0;) {
      stats = server.scheduler->stats();
    }
    RKV_RETURN_IF_ERROR(status);
    if (server.n_held < texts_.size()) return OkStatus();
    return InvalidArgument(
        fmt::format("all {} conversations fit into {} MiB with {}, so the limit is unknown; raise "
                    "--parallel, lower --memory, or raise -d",
                    texts_.size(), memory_bytes_ >> 20, plan_.bench.caches[c].label()));
  }

  // Adds clients up to n_clients.
  Status Open(size_t c, size_t n_clients) {
    Server& server = servers_[c];
    Show(fmt::format("opening {} conversations of {}", n_clients, plan_.bench.caches[c].label()));
    std::vector<Asked> asked;
    for (size_t client = server.clients.size(); client < n_clients; ++client) {
      server.clients.push_back({FirstMessage(client)});
      asked.push_back({client, Ask(c, client, 1)});
    }
    RKV_ASSIGN_OR_RETURN(const size_t n_tokens, Wait(server, asked));
    server.n_depth_tokens += n_tokens;
    return OkStatus();
  }

  Status MeasureTurns(size_t n_clients, int n) {
    std::vector<BenchRow> rows;
    for (size_t c = 0; c < servers_.size(); ++c) {
      BenchRow& row = rows.emplace_back();
      row.model = info_;
      row.n_threads = engine_options_.n_threads;
      row.n_ubatch = engine_options_.n_ubatch;
      row.n_conversations = static_cast<int>(n_clients);
      row.cache = plan_.bench.caches[c];
      row.test = {.prefill = false,
                  .n = static_cast<size_t>(n),
                  .depth = servers_[c].n_depth_tokens / n_clients};
      row.serve.emplace();
      row.serve->memory_bytes = memory_bytes_;
      row.serve->n_held = servers_[c].n_held;
    }
    std::mt19937_64 random(plan_.bench.seed);
    std::vector<size_t> order(n_clients);
    for (size_t i = 0; i < n_clients; ++i) order[i] = i;
    for (int repetition = 0; repetition < plan_.bench.repetitions; ++repetition) {
      // Clients ask in a random order, which is the same for all caches.
      std::ranges::shuffle(order, random);
      for (size_t i = 0; i < servers_.size(); ++i) {
        const size_t c = (i + static_cast<size_t>(repetition)) % servers_.size();
        Show(fmt::format("{} clients, {}, repetition {}", n_clients, rows[c].cache.label(),
                         repetition + 1));
        RKV_RETURN_IF_ERROR(Repeat(c, order, n, rows[c]));
      }
    }
    CompareWithFull(rows);
    std::ranges::move(rows, std::back_inserter(rows_));
    return OkStatus();
  }

  Status Repeat(size_t c, const std::vector<size_t>& order, int n, BenchRow& row) {
    Server& server = servers_[c];
    for (const size_t client : order) server.clients[client].push_back(User(kQuestion));
    const SchedulerStats before = server.scheduler->stats();
    const auto start = Clock::now();
    std::vector<Asked> asked;
    for (const size_t client : order) asked.push_back({client, Ask(c, client, n)});
    RKV_RETURN_IF_ERROR(Wait(server, asked).status());
    row.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    const SchedulerStats after = server.scheduler->stats();
    row.serve->n_restored +=
        static_cast<double>(after.conversations_restored - before.conversations_restored) /
        plan_.bench.repetitions;
    row.held_bytes = after.kv_bytes;
    row.full_bytes = after.kv_bytes_full;
    row.peak.kv_bytes = after.kv_bytes_peak;
    return OkStatus();
  }

  Message FirstMessage(size_t client) const {
    return User(texts_[client] + kQuestion, plan_.pictures);
  }

  GenerationRequest Request(size_t c, std::vector<Message> messages, size_t n) const {
    GenerationRequest request;
    request.messages = std::move(messages);
    request.cache = plan_.bench.caches[c].options;
    request.sampling = {.temperature = 0, .ignore_eos = true};
    request.max_tokens = static_cast<int>(n);
    return request;
  }

  std::shared_ptr<Ticket> Ask(size_t c, size_t client, int n) {
    GenerationRequest request = Request(c, servers_[c].clients[client], static_cast<size_t>(n));
    // Separates clients with equal messages.
    request.session = std::to_string(client);
    return servers_[c].scheduler->Submit(std::move(request));
  }

  // Waits for all answers. Returns the tokens that their caches have seen.
  Result<size_t> Wait(Server& server, const std::vector<Asked>& asked) const {
    size_t n_tokens = 0;
    for (const auto& [client, ticket] : asked) {
      Message answer{.role = "assistant", .parts = {{.text = {}, .media = {}}}};
      for (bool answered = false; !answered;) {
        if (plan_.cancel != nullptr && *plan_.cancel) return Cancelled("interrupted");
        const auto event = ticket->Next(kLookAgain);
        if (!event.has_value()) continue;
        if (const auto* piece = std::get_if<AnswerPiece>(&*event)) {
          answer.parts.front().text += piece->text;
        } else if (const auto* error = std::get_if<ApiError>(&*event)) {
          return Internal(fmt::format("the server answers {}: {}", error->status, error->message));
        } else if (const auto* summary = std::get_if<AnswerSummary>(&*event)) {
          n_tokens += summary->kv.at("tokens_seen").get<size_t>();
          answered = true;
        }
      }
      server.clients[client].push_back(std::move(answer));
    }
    return n_tokens;
  }

  void Show(std::string_view what) {
    progress_(what, static_cast<double>(n_done_++) / static_cast<double>(n_steps_));
  }

  const ServeLoadPlan& plan_;
  const BenchProgress& progress_;
  const ParkFolder parked_;
  size_t n_steps_ = 0;
  size_t n_done_ = 0;
  BenchModelInfo info_;
  EngineOptions engine_options_;
  std::vector<std::string> texts_;  // [client], at the start of its conversation
  size_t n_growth_ = 0;             // tokens of a conversation after its first message
  uint64_t memory_bytes_ = 0;
  std::vector<Server> servers_;  // [cache]
  std::vector<BenchRow> rows_;
};

}  // namespace

Result<std::vector<BenchRow>> MeasureServeLoad(const ServeLoadPlan& plan,
                                               const BenchProgress& progress) {
  return ServeMeasuring(plan, progress).Run();
}

}  // namespace rkv::app
