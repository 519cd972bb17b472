// The scheduler with the bundled model: continuation, memory limit, cancellation and refusals.
#include "serve/scheduler.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "support/test_models.h"

namespace rkv::app {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

const std::string kReference = SourcePath("models/reference/");

std::string Picture(const std::string& name) {
  std::ifstream file(kReference + "samples/" + name, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Message Said(const std::string& role, const std::string& text, const std::string& picture = "") {
  Message message{.role = role, .parts = {}};
  if (!picture.empty()) {
    message.parts.push_back(
        {.text = {}, .media = MediaFile{.name = picture, .bytes = Picture(picture)}});
  }
  message.parts.push_back({.text = text, .media = {}});
  return message;
}

GenerationRequest Greedy(std::vector<Message> messages, int max_tokens = 12) {
  GenerationRequest request;
  request.messages = std::move(messages);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

std::unique_ptr<Scheduler> MakeScheduler(const SchedulerOptions& options = {},
                                         std::unique_ptr<ParkStore> store = nullptr,
                                         int n_parallel = 4,
                                         const std::string& model = "tiny-vlm") {
  EngineOptions engine;
  engine.model = kReference + model + "-f16.gguf";
  engine.mmproj = kReference + "mmproj-" + model + "-f16.gguf";
  engine.n_threads = 2;
  engine.max_conversations = n_parallel;
  return std::make_unique<Scheduler>(*Engine::Load(engine), std::move(store), options);
}

std::string Folder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::string folder = testing::TempDir() + "scheduler-" + info->name();
  fs::remove_all(folder);
  return folder;
}

std::unique_ptr<ParkStore> MakeStore(const std::string& folder) {
  return std::make_unique<ParkStore>(*ParkStore::Open(folder, 0));
}

struct Outcome {
  std::string text;
  std::optional<AnswerSummary> summary;
  ApiError error;
};

Outcome Wait(Ticket& ticket) {
  Outcome outcome;
  while (true) {
    auto event = ticket.Next(milliseconds(120000));
    if (!event.has_value()) {
      ADD_FAILURE() << "nothing came";
      return outcome;
    }
    if (const auto* piece = std::get_if<AnswerPiece>(&*event)) outcome.text += piece->text;
    if (auto* summary = std::get_if<AnswerSummary>(&*event)) {
      outcome.summary = std::move(*summary);
      return outcome;
    }
    if (auto* error = std::get_if<ApiError>(&*event)) {
      outcome.error = std::move(*error);
      return outcome;
    }
  }
}

Outcome Ask(Scheduler& scheduler, GenerationRequest request) {
  return Wait(*scheduler.Submit(std::move(request)));
}

TEST(SchedulerTest, ContinuesWhatIsKnownOnceAndReadsTheRest) {
  const auto scheduler = MakeScheduler();
  const Message question = Said("user", "value of W", "doc-1.png");
  const Outcome first = Ask(*scheduler, Greedy({question}));
  ASSERT_TRUE(first.summary.has_value()) << first.error.message;
  EXPECT_EQ(first.text, "59");
  const auto next = [&](const std::string& text) {
    return Greedy({question, Said("assistant", "59"), Said("user", text)});
  };
  // The cached conversation continues one branch; the other branch is read again.
  const auto one = scheduler->Submit(next("value of Z"));
  const auto two = scheduler->Submit(next("value of Q"));
  const Outcome z = Wait(*one);
  const Outcome q = Wait(*two);
  EXPECT_EQ(z.text, "27");
  EXPECT_EQ(q.text, "18");
  EXPECT_GT(z.summary->n_cached_tokens, 64u);
  EXPECT_EQ(q.summary->n_cached_tokens, 0u);
  EXPECT_EQ(scheduler->stats().idle, 2u);
}

TEST(SchedulerTest, CancelledRequestsHoldNothing) {
  const auto scheduler = MakeScheduler({}, nullptr, 1);
  GenerationRequest endless = Greedy({Said("user", "color of S", "scene-1.png")}, 100000);
  endless.sampling.ignore_eos = true;
  const auto running = scheduler->Submit(endless);
  const auto waiting = scheduler->Submit(endless);
  size_t n_pieces = 0;
  while (n_pieces < 2) {
    const auto event = running->Next(milliseconds(60000));
    ASSERT_TRUE(event.has_value());
    n_pieces += std::holds_alternative<AnswerPiece>(*event);
  }
  EXPECT_EQ(scheduler->stats().running, 1u);
  EXPECT_EQ(scheduler->stats().waiting, 1u);
  waiting->Cancel();
  running->Cancel();
  // A later request is answered, so both have ended.
  EXPECT_EQ(Ask(*scheduler, Greedy({Said("user", "color of S", "scene-1.png")})).text, "pink");
  const SchedulerStats stats = scheduler->stats();
  EXPECT_EQ(stats.requests_cancelled, 2u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.idle, 1u);
}

TEST(SchedulerTest, ACancelledTurnLeavesTheConversationAsItWas) {
  const auto scheduler = MakeScheduler();
  const Message question = Said("user", "value of W", "doc-1.png");
  Ask(*scheduler, Greedy({question}));
  GenerationRequest endless =
      Greedy({question, Said("assistant", "59"), Said("user", "value of Q")}, 100000);
  endless.sampling.ignore_eos = true;
  const auto ticket = scheduler->Submit(endless);
  while (!std::holds_alternative<AnswerPiece>(*ticket->Next(milliseconds(60000)))) {
  }
  ticket->Cancel();
  while (scheduler->stats().running > 0) std::this_thread::sleep_for(milliseconds(5));
  const Outcome next =
      Ask(*scheduler, Greedy({question, Said("assistant", "59"), Said("user", "value of Z")}));
  EXPECT_EQ(next.text, "27");
  EXPECT_GT(next.summary->n_cached_tokens, 64u);
}

TEST(SchedulerTest, TheLimitHoldsAndIdleConversationsMakeWay) {
  SchedulerOptions options;
  options.memory_bytes = 600 << 10;
  const std::string folder = Folder();
  const auto scheduler = MakeScheduler(options, MakeStore(folder));
  const Message question = Said("user", "value of W", "doc-1.png");
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request = Greedy({question});
    request.session = std::to_string(i);
    EXPECT_EQ(Ask(*scheduler, request).text, "59");
    const SchedulerStats stats = scheduler->stats();
    EXPECT_LE(stats.kv_bytes, options.memory_bytes);
    EXPECT_LE(stats.kv_bytes_reserved, options.memory_bytes);
  }
  EXPECT_GT(scheduler->stats().conversations_parked, 3u);
  EXPECT_LE(scheduler->stats().kv_bytes_peak, options.memory_bytes);
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request =
        Greedy({question, Said("assistant", "59"), Said("user", "value of Z")});
    request.session = std::to_string(i);
    const Outcome outcome = Ask(*scheduler, request);
    EXPECT_EQ(outcome.text, "27");
    EXPECT_GT(outcome.summary->n_cached_tokens, 64u);
  }
  EXPECT_LE(scheduler->stats().kv_bytes_peak, options.memory_bytes);
}

TEST(SchedulerTest, ASmallBudgetHoldsSeveralTimesAsManyConversations) {
  const auto held = [](const std::string& policy, const std::string& budget) {
    SchedulerOptions options;
    options.memory_bytes = 2 << 20;
    const auto scheduler = MakeScheduler(options);
    GenerationRequest request = Greedy({Said("user", "value of W", "doc-1.png")});
    request.cache.policy = *ParsePolicySpec(policy);
    request.cache.budget = *ParseBudget(budget);
    size_t n = 0;
    while (scheduler->stats().conversations_dropped == 0 && n < 200) {
      request.session = std::to_string(n++);
      EXPECT_TRUE(Ask(*scheduler, request).summary.has_value());
    }
    return scheduler->stats().idle;
  };
  EXPECT_GE(held("retentive", "20%"), 4 * held("full", "100%"));
}

TEST(SchedulerTest, AFullDiskIsNoLossAsLongAsThereIsRoom) {
  const std::string folder = Folder();
  const auto scheduler = MakeScheduler({}, MakeStore(folder));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Message question = Said("user", "value of W", "doc-1.png");
  const Outcome first = Ask(*scheduler, Greedy({question}));
  const uint64_t n_failures = scheduler->stats().park_failures;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(first.text, "59");
  EXPECT_EQ(n_failures, 1u);
  EXPECT_TRUE(fs::is_empty(folder));
  const Outcome next =
      Ask(*scheduler, Greedy({question, Said("assistant", "59"), Said("user", "value of Z")}));
  EXPECT_EQ(next.text, "27");
  EXPECT_GT(next.summary->n_cached_tokens, 64u);
  EXPECT_FALSE(fs::is_empty(folder));
}

TEST(SchedulerTest, RequestsThatFindNoRoomAreRefused) {
  SchedulerOptions options;
  options.max_waiting = 1;
  options.max_wait = milliseconds(200);
  const auto scheduler = MakeScheduler(options, nullptr, 1);
  GenerationRequest endless = Greedy({Said("user", "color of S", "scene-1.png")}, 100000);
  endless.sampling.ignore_eos = true;
  const auto running = scheduler->Submit(endless);
  while (!std::holds_alternative<AnswerPiece>(*running->Next(milliseconds(60000)))) {
  }
  const auto waiting = scheduler->Submit(endless);
  const Outcome refused = Ask(*scheduler, endless);
  EXPECT_EQ(refused.error.status, 503);
  EXPECT_GT(refused.error.retry_after, 0);
  running->Cancel();
  waiting->Cancel();
}

TEST(SchedulerTest, ARequestThatWaitedInVainLearnsWhy) {
  const auto refusal = [](std::shared_ptr<WorkInProgress> work) {
    Ticket ticket(milliseconds(0), std::move(work));
    EXPECT_FALSE(ticket.refused());
    const auto event = ticket.Next(milliseconds(60000));
    if (!event.has_value() || !std::holds_alternative<ApiError>(*event)) return std::string();
    EXPECT_TRUE(ticket.refused());
    EXPECT_FALSE(ticket.Admit());
    const auto& error = std::get<ApiError>(*event);
    EXPECT_EQ(error.status, 503);
    EXPECT_GT(error.retry_after, 0);
    return error.message;
  };
  const auto work = std::make_shared<WorkInProgress>();
  work->Set(3, false);
  EXPECT_NE(refusal(work).find("no memory is left: 3 conversations are being answered"),
            std::string::npos);
  work->Set(4, true);
  EXPECT_NE(refusal(work).find("4 answers are being generated"), std::string::npos);
  work->BeginStep();
  work->Report("encoding pictures");
  EXPECT_NE(refusal(work).find("busy encoding pictures"), std::string::npos);
  work->EndStep();
  EXPECT_EQ(refusal(work).find("busy"), std::string::npos);
  work->BeginStep();
  EXPECT_NE(refusal(work).find("busy reading the prompts"), std::string::npos);
  // An admitted request cannot be refused any more.
  Ticket admitted(milliseconds(0), work);
  EXPECT_TRUE(admitted.Admit());
  EXPECT_FALSE(admitted.Next(milliseconds(0)).has_value());
  EXPECT_FALSE(admitted.refused());
}

TEST(SchedulerTest, TextsThatCannotFitAreRefusedBeforeTheyAreRead) {
  const auto scheduler = MakeScheduler();
  std::string text;
  while (text.size() < (size_t{8} << 20)) text += "color of S ";
  const Outcome one = Ask(*scheduler, Greedy({Said("user", text)}));
  EXPECT_EQ(one.error.status, 400);
  EXPECT_EQ(one.error.type, "exceed_context_size_error");
  EXPECT_NE(one.error.message.find("--ctx-size"), std::string::npos) << one.error.message;
  // Many messages or many parts do not make a text shorter.
  std::vector<Message> many(2000, Said("user", text.substr(0, 4000)));
  EXPECT_EQ(Ask(*scheduler, Greedy(many)).error.status, 400);
  std::vector<Message> empty(static_cast<size_t>(scheduler->n_ctx()), Said("user", "x"));
  EXPECT_EQ(Ask(*scheduler, Greedy(empty)).error.status, 400);
  // Characters across the places where the text is cut.
  std::string wide;
  while (wide.size() < (size_t{1} << 20)) wide += "\xF0\x9F\x98\x80\xE6\x97\xA5";
  EXPECT_EQ(Ask(*scheduler, Greedy({Said("user", wide)})).error.status, 400);
  EXPECT_EQ(Ask(*scheduler, Greedy({Said("user", std::string(1 << 20, '\x80'))})).error.status,
            400);
  GenerationRequest completion = Greedy({});
  completion.text = text;
  EXPECT_EQ(Ask(*scheduler, completion).error.status, 400);
  // The scheduler's thread has received nothing of it.
  EXPECT_EQ(scheduler->stats().steps, 0u);
  // A hang-up ends the counting.
  int n_asked = 0;
  GenerationRequest request = Greedy({Said("user", text)});
  (void)Wait(*scheduler->Submit(std::move(request), [&n_asked] { return ++n_asked > 0; }));
  EXPECT_EQ(n_asked, 1);
  // A text that fits is answered.
  EXPECT_EQ(Ask(*scheduler, Greedy({Said("user", "color of S", "scene-1.png")})).text, "pink");
}

TEST(SchedulerTest, TokenizingIsBoundedAndEndsWithItsClient) {
  const auto scheduler = MakeScheduler();
  const std::string most(Scheduler::kMaxTokenizedBytes, ' ');
  EXPECT_EQ(scheduler->Tokenize(most + " ").status().code(), StatusCode::kInvalidArgument);
  const auto tokens = scheduler->Tokenize("value of W");
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(*scheduler->Detokenize(*tokens), "value of W");
}

// At a high temperature the model writes any bytes.
TEST(SchedulerTest, AnAnswerThatIsNoUtf8GoesOn) {
  const auto scheduler = MakeScheduler({}, nullptr, 4, "reference");
  const Message question = Said("user", "Is there a total?", "doc-1.png");
  int n_replaced = 0;
  for (uint32_t seed = 1; seed <= 200 && n_replaced < 3; ++seed) {
    GenerationRequest request = Greedy({question}, 24);
    request.sampling = {
        .temperature = 50, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed, .ignore_eos = true};
    request.session = std::to_string(seed);
    const Outcome first = Ask(*scheduler, request);
    if (!first.summary.has_value()) continue;  // Some tokens were never trained.
    if (first.text.find("\xEF\xBF\xBD") == std::string::npos) continue;
    ++n_replaced;
    EXPECT_EQ(first.text.find('\0'), std::string::npos);
    // In the form that a client has after reading the JSON.
    const auto said = nlohmann::json::parse(Dump(first.text)).get<std::string>();
    EXPECT_EQ(said, first.text);
    GenerationRequest next = Greedy({question, Said("assistant", said), Said("user", "total?")});
    next.session = request.session;
    const Outcome second = Ask(*scheduler, next);
    ASSERT_TRUE(second.summary.has_value()) << second.error.message;
    EXPECT_EQ(second.summary->conversation_id, first.summary->conversation_id);
    EXPECT_GT(second.summary->n_cached_tokens, 0u);
  }
  EXPECT_GT(n_replaced, 0);
}

TEST(SchedulerTest, ShuttingDownEndsRequestsWithAnError) {
  auto scheduler = MakeScheduler({}, nullptr, 1);
  GenerationRequest endless = Greedy({Said("user", "color of S", "scene-1.png")}, 100000);
  endless.sampling.ignore_eos = true;
  const auto running = scheduler->Submit(endless);
  const auto waiting = scheduler->Submit(endless);
  while (!std::holds_alternative<AnswerPiece>(*running->Next(milliseconds(60000)))) {
  }
  scheduler.reset();
  EXPECT_EQ(Wait(*running).error.status, 503);
  EXPECT_EQ(Wait(*waiting).error.status, 503);
}

}  // namespace
}  // namespace rkv::app
