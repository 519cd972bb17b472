// Options that are passed to llama.cpp: each has the same effect as in stock llama.cpp.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "lab/gguf_builder.h"
#include "retentivekv/engine.h"
#include "support/stock.h"
#include "support/test_models.h"

namespace rkv {
namespace {

// A byte is a token of the generated models.
constexpr const char* kText = "What is written on the third line of this page?";
// Our attention adds in another order, so LoRA products have slightly different activations.
constexpr double kSame = 5e-3;
constexpr double kOther = 2e-2;
// Widths of the usual test model: of its embeddings, and of all its query heads together.
constexpr int kHeads = 6 * 64;
constexpr int kEmbd = kHeads;

EngineOptions Options(const std::string& model = TestModelPath("qwen2-d64")) {
  EngineOptions options;
  options.model = model;
  options.n_threads = 2;
  options.n_ctx = 1024;
  return options;
}

std::unique_ptr<Engine> Load(const EngineOptions& options) {
  auto engine = Engine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? *std::move(engine) : nullptr;
}

Status LoadStatus(const EngineOptions& options) { return Engine::Load(options).status(); }

std::vector<float> OurLogits(const EngineOptions& options) {
  const auto engine = Load(options);
  if (engine == nullptr) return {};
  const auto conversation = *engine->NewConversation({});
  EXPECT_TRUE(conversation->AddText(kText).ok());
  auto logits = engine->ReadPrompt(*conversation);
  EXPECT_TRUE(logits.ok()) << logits.status().message();
  return logits.ok() ? *std::move(logits) : std::vector<float>();
}

std::vector<float> StockLogits(const std::string& model,
                               const std::function<void(llama_context_params&)>& change,
                               const std::function<void(llama_context*)>& prepare = {}) {
  StockLlama stock(model, "", 1024, LLAMA_FLASH_ATTN_TYPE_ENABLED, change);
  if (prepare) prepare(stock.context());
  std::vector<llama_token> tokens(256);
  const int n = llama_tokenize(stock.vocab(), kText, static_cast<int32_t>(std::strlen(kText)),
                               tokens.data(), static_cast<int32_t>(tokens.size()), true, true);
  std::vector<BatchEntry> batch;
  for (int i = 0; i < n; ++i) {
    batch.push_back({.token = tokens[static_cast<size_t>(i)], .position = i});
  }
  return stock.Decode(batch, true)[0];
}

TEST(EngineOptionsTest, RopeAndYarnChangeLogitsAsInStock) {
  const std::vector<float> plain = OurLogits(Options());
  const struct {
    RopeOptions ours;
    std::function<void(llama_context_params&)> stock;
  } cases[] = {
      {{.scaling = "linear", .freq_scale = 0.25f},
       [](llama_context_params& p) {
         p.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_LINEAR;
         p.rope_freq_scale = 0.25f;
       }},
      {{.freq_base = 500.0f}, [](llama_context_params& p) { p.rope_freq_base = 500.0f; }},
      {{.scaling = "yarn", .freq_scale = 0.25f, .yarn_orig_ctx = 64},
       [](llama_context_params& p) {
         p.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_YARN;
         p.rope_freq_scale = 0.25f;
         p.yarn_orig_ctx = 64;
       }},
      {{.scaling = "yarn",
        .freq_scale = 0.5f,
        .yarn_orig_ctx = 128,
        .yarn_ext_factor = 0.7f,
        .yarn_attn_factor = 1.3f,
        .yarn_beta_slow = 2.0f,
        .yarn_beta_fast = 16.0f},
       [](llama_context_params& p) {
         p.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_YARN;
         p.rope_freq_scale = 0.5f;
         p.yarn_orig_ctx = 128;
         p.yarn_ext_factor = 0.7f;
         p.yarn_attn_factor = 1.3f;
         p.yarn_beta_slow = 2.0f;
         p.yarn_beta_fast = 16.0f;
       }},
  };
  int i = 0;
  for (const auto& c : cases) {
    SCOPED_TRACE(i++);
    EngineOptions options = Options();
    options.rope = c.ours;
    const std::vector<float> ours = OurLogits(options);
    ASSERT_EQ(ours.size(), plain.size());
    EXPECT_LT(RelativeError(ours, StockLogits(options.model, c.stock)), kSame);
    EXPECT_GT(RelativeError(ours, plain), kOther);
  }
}

TEST(EngineOptionsTest, LoraAdaptersGiveTheLogitsOfStock) {
  const std::string model = TestModelPath("qwen2-d64");
  constexpr int kRank = 4;
  const auto write = [](const std::string& name, int width, uint64_t seed) {
    FileBuilder file("qwen2", *FindWeightType("f32"), seed);
    file.Set("general.type", "adapter");
    file.Set("adapter.type", "lora");
    file.Set("adapter.lora.alpha", 8.0);
    const auto add = [&file](const std::string& weight, int n_in, int n_out) {
      file.Matrix(weight + ".weight.lora_a", {n_in, kRank});
      file.Matrix(weight + ".weight.lora_b", {kRank, n_out});
    };
    add("blk.0.attn_q", width, kHeads);
    add("blk.0.attn_output", kHeads, width);
    add("blk.2.attn_output", kHeads, width);
    const std::string path = testing::TempDir() + name;
    EXPECT_TRUE(file.Write(path).ok());
    return path;
  };
  EngineOptions options = Options(model);
  const std::vector<float> plain = OurLogits(options);
  options.loras = {{write("one.gguf", kEmbd, 1), 0.5f}, {write("two.gguf", kEmbd, 2), 0.25f}};
  const std::vector<float> ours = OurLogits(options);
  ASSERT_EQ(ours.size(), plain.size());
  const std::vector<float> stock = StockLogits(model, {}, [&options](llama_context* context) {
    std::vector<llama_adapter_lora*> adapters;
    std::vector<float> scales;
    for (const Adapter& lora : options.loras) {
      auto* of = const_cast<llama_model*>(llama_get_model(context));
      adapters.push_back(llama_adapter_lora_init(of, lora.path.c_str()));
      scales.push_back(lora.scale);
    }
    llama_set_adapters_lora(context, adapters.data(), adapters.size(), scales.data());
  });
  EXPECT_LT(RelativeError(ours, stock), kSame);
  EXPECT_GT(RelativeError(ours, plain), kOther);

  // State that was computed with adapters cannot be used without them.
  const std::string saved = testing::TempDir() + "lora-conversation";
  {
    const auto engine = Load(options);
    const auto conversation = *engine->NewConversation({});
    ASSERT_TRUE(conversation->AddText("x").ok());
    ASSERT_TRUE(engine->Answer(*conversation, {.max_tokens = 1}).ok());
    ASSERT_TRUE(conversation->Save(saved).ok());
    EXPECT_TRUE(engine->LoadConversation(saved).ok());
  }
  EXPECT_EQ(Load(Options(model))->LoadConversation(saved).status().code(), StatusCode::kBadFile);

  options.loras = {{write("narrow.gguf", kEmbd / 2, 3), 1.0f}};
  EXPECT_EQ(LoadStatus(options).code(), StatusCode::kBadFile);
  options.loras = {{model, 1.0f}};
  const Status no_adapter = LoadStatus(options);
  EXPECT_EQ(no_adapter.code(), StatusCode::kBadFile);
  EXPECT_NE(no_adapter.message().find("LoRA adapter"), std::string::npos) << no_adapter.message();
  options.loras = {{"/no/such/lora.gguf", 1.0f}};
  EXPECT_EQ(LoadStatus(options).code(), StatusCode::kBadFile);
}

TEST(EngineOptionsTest, ControlVectorsGiveTheLogitsOfStock) {
  const auto write = [](const std::string& name, int width, const char* layer) {
    FileBuilder file("controlvector", *FindWeightType("f32"), 5);
    file.Vector(std::string("direction.") + layer, width, 0.0, 0.2);
    const std::string path = testing::TempDir() + name;
    EXPECT_TRUE(file.Write(path).ok());
    return path;
  };
  EngineOptions options = Options();
  const std::vector<float> plain = OurLogits(options);
  options.control_vectors = {{write("direction.gguf", kEmbd, "1"), 2.0f}};
  const std::vector<float> ours = OurLogits(options);
  ASSERT_EQ(ours.size(), plain.size());
  const std::vector<float> stock = StockLogits(options.model, {}, [&](llama_context* context) {
    const std::vector<float> data = ReadFloatTensor(options.control_vectors[0].path, "direction.1");
    ASSERT_EQ(data.size(), static_cast<size_t>(kEmbd));
    std::vector<float> sum(static_cast<size_t>(kEmbd) * 2);
    for (int i = 0; i < kEmbd; ++i) sum[static_cast<size_t>(i)] = 2 * data[static_cast<size_t>(i)];
    llama_set_adapter_cvec(context, sum.data(), sum.size(), kEmbd, 1, 3);
  });
  EXPECT_LT(RelativeError(ours, stock), kSame);
  EXPECT_GT(RelativeError(ours, plain), kOther);

  for (const auto& path : {write("narrow-direction.gguf", 8, "1"),
                           write("zero-direction.gguf", kEmbd, "0"), options.model}) {
    options.control_vectors = {{path, 1.0f}};
    EXPECT_EQ(LoadStatus(options).code(), StatusCode::kBadFile) << path;
  }
}

TEST(EngineOptionsTest, OverridesOfMetadataCount) {
  EngineOptions options = Options();
  options.overrides = {"qwen2.rope.freq_base=float:500", "general.name=str:Renamed 1B"};
  EXPECT_LT(RelativeError(OurLogits(options),
                          StockLogits(options.model,
                                      [](llama_context_params& p) { p.rope_freq_base = 500; })),
            kSame);
  for (const char* bad :
       {"", "=int:1", "key", "key=1", "key=int:x", "key=float:nan", "key=bool:yes", "key=list:1"}) {
    options.overrides = {bad};
    const Status status = LoadStatus(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(status.message().find("KEY=TYPE:VALUE"), std::string::npos) << status.message();
  }
  // Of another type than the model's: llama.cpp then keeps the model's value.
  options.overrides = {"qwen2.rope.freq_base=bool:true"};
  EXPECT_LT(RelativeError(OurLogits(options), OurLogits(Options())), kSame);
}

TEST(EngineOptionsTest, ThreadsRunWhereTheyAreTold) {
  const std::vector<float> plain = OurLogits(Options());
  EngineOptions options = Options();
  options.threads = {.cpus = {0}, .strict = true, .priority = 0, .poll = 0};
  options.n_threads_batch = 1;
  EXPECT_EQ(OurLogits(options), plain);
  options.n_threads_batch = 0;
  EXPECT_EQ(OurLogits(options), plain);
  options.threads.cpus = {511};
  const Status status = LoadStatus(options);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("CPU 511"), std::string::npos) << status.message();
  for (const LoadMode mode : {LoadMode::kNone, LoadMode::kMmap, LoadMode::kMlock}) {
    EngineOptions other = Options();
    other.load_mode = mode;
    EXPECT_EQ(OurLogits(other), plain);
  }
}

TEST(EngineOptionsTest, OptionsThatCannotBeAreRefused) {
  for (const RopeOptions& rope :
       {RopeOptions{.scaling = "longrope"}, RopeOptions{.freq_base = -1},
        RopeOptions{.freq_scale = std::numeric_limits<float>::infinity()},
        RopeOptions{.yarn_orig_ctx = -4}, RopeOptions{.yarn_beta_fast = 0}}) {
    EngineOptions options = Options();
    options.rope = rope;
    EXPECT_EQ(LoadStatus(options).code(), StatusCode::kInvalidArgument);
  }
}

// The tokens of a sampled answer.
std::string Sampled(Engine& engine, const SamplingOptions& sampling, int n = 24) {
  const auto conversation = *engine.NewConversation({});
  EXPECT_TRUE(conversation->AddText(kText).ok());
  AnswerOptions options;
  options.max_tokens = n;
  options.sampling = sampling;
  const auto answer = engine.Answer(*conversation, options);
  EXPECT_TRUE(answer.ok()) << answer.status().message();
  return answer.ok() ? answer->text : "";
}

TEST(EngineOptionsTest, EachSamplerChangesWhatIsSampled) {
  const auto engine = Load(Options());
  SamplingOptions plain;
  plain.seed = 3;
  plain.ignore_eos = true;
  plain.temperature = 1.5f;
  const std::string before = Sampled(*engine, plain);
  EXPECT_EQ(Sampled(*engine, plain), before);
  const std::map<std::string, std::function<void(SamplingOptions&)>> changes = {
      {"typical_p", [](auto& o) { o.typical_p = 0.2f; }},
      {"top_n_sigma", [](auto& o) { o.top_n_sigma = 0.3f; }},
      {"xtc",
       [](auto& o) {
         o.xtc_probability = 1;
         o.xtc_threshold = 0.02f;
       }},
      {"dynatemp", [](auto& o) { o.dynatemp_range = 1.4f; }},
      {"repeat_penalty", [](auto& o) { o.repeat_penalty = 5; }},
      {"presence_penalty", [](auto& o) { o.presence_penalty = 20; }},
      {"frequency_penalty", [](auto& o) { o.frequency_penalty = -20; }},
      {"mirostat",
       [](auto& o) {
         o.mirostat = 1;
         o.mirostat_tau = 0.1f;
       }},
      {"mirostat 2",
       [](auto& o) {
         o.mirostat = 2;
         o.mirostat_tau = 0.1f;
       }},
      {"samplers",
       [](auto& o) {
         o.samplers = {"top_k"};
         o.top_k = 1;
       }},
      {"adaptive_p",
       [](auto& o) {
         o.samplers = {"adaptive_p"};
         o.adaptive_target = 0.01f;
       }},
      {"logit_bias",
       [](auto& o) {
         o.logit_bias = {{65, 100.0f}};
       }},
      {"grammar", [](auto& o) { o.grammar = "root ::= [a-c]+"; }},
  };
  for (const auto& [name, change] : changes) {
    SamplingOptions options = plain;
    change(options);
    const std::string text = Sampled(*engine, options);
    EXPECT_NE(text, before) << name;
    EXPECT_EQ(Sampled(*engine, options), text) << name;
  }
}

TEST(EngineOptionsTest, PenaltiesSeeThePromptAndCountForGreedyAnswers) {
  const auto engine = Load(Options());
  SamplingOptions greedy;
  greedy.temperature = 0;
  greedy.ignore_eos = true;
  const std::string text = Sampled(*engine, greedy, 1);
  ASSERT_EQ(text.size(), 1u);
  // The token is in the prompt, so it is penalised from the first token on.
  SamplingOptions biased = greedy;
  biased.logit_bias = {{'W', 1000.0f}};
  const auto first = [&](const SamplingOptions& o) { return Sampled(*engine, o, 1); };
  const std::string w = first(biased);
  biased.presence_penalty = 5000;
  EXPECT_NE(first(biased), w);
  biased.repeat_last_n = 4;  // too short to include the W
  EXPECT_EQ(first(biased), w);
}

TEST(EngineOptionsTest, GrammarsAreKeptTo) {
  const auto engine = Load(Options());
  SamplingOptions options;
  options.seed = 1;
  options.grammar = "root ::= (\"yes\" | \"no\") \"!\"";
  for (const float temperature : {0.0f, 2.0f}) {
    options.temperature = temperature;
    const std::string text = Sampled(*engine, options);
    EXPECT_TRUE(text == "yes!" || text == "no!") << text;
  }
  options.ignore_eos = true;  // The grammar still has an end.
  const std::string text = Sampled(*engine, options);
  EXPECT_TRUE(text == "yes!" || text == "no!") << text;
}

TEST(EngineOptionsTest, GrammarsThatAreNoneAreErrors) {
  const auto engine = Load(Options());
  std::string chain = "root ::= r1\n";
  for (int i = 1; i < 9000; ++i) chain += fmt::format("r{} ::= r{}\n", i, i + 1);
  const std::pair<std::string, const char*> cases[] = {
      {"root ::= (", "grammar"},
      {" \n# nothing\n", "grammar"},
      {"start ::= \"a\"", "root"},
      {"root ::= root \"a\"", "begin with itself"},
      {"root ::= a\na ::= b\nb ::= a \"x\"", "begin with itself"},
      {"root ::= nothing", "grammar"},
      {"root ::= " + std::string(10'000, '(') + "\"a\"" + std::string(10'000, ')'), "nested"},
      {"root ::= \"a\"{0,100000000}", "more than"},
      {"root ::= \"a\"{99999999999999999999999}", "more than"},
      {"root ::= " + std::string(2 << 20, 'a'), "bytes"},
      {std::string("root ::= \"a\0b\"", 15), "NUL"},
      {"root ::= [", "grammar"},
      {"root ::= \"", "grammar"},
      {chain, "grammar"},  // r9000 is not defined
  };
  for (const auto& [grammar, says] : cases) {
    SamplingOptions options;
    options.grammar = grammar;
    const Status status = engine->CheckSampling(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << grammar.substr(0, 60);
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
    EXPECT_LT(status.message().size(), 500u) << status.message();
  }
  SamplingOptions good;
  good.grammar = "root ::= [^()] \"((((\" # ((((\n";
  EXPECT_TRUE(engine->CheckSampling(good).ok());
  good.grammar = chain + "r9000 ::= \"a\"";
  EXPECT_TRUE(engine->CheckSampling(good).ok());
}

TEST(EngineOptionsTest, SamplingOptionsOutOfRangeAreErrors) {
  const auto engine = Load(Options());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::map<std::string, std::function<void(SamplingOptions&)>> changes = {
      {"temperature", [nan](auto& o) { o.temperature = nan; }},
      {"repeat_penalty", [](auto& o) { o.repeat_penalty = 0; }},
      {"repeat_last_n", [](auto& o) { o.repeat_last_n = std::numeric_limits<int>::max(); }},
      {"dry_base", [](auto& o) { o.dry_base = 0.5f; }},
      {"dry_penalty_last_n", [](auto& o) { o.dry_penalty_last_n = -1; }},
      {"mirostat", [](auto& o) { o.mirostat = 3; }},
      {"xtc_probability", [](auto& o) { o.xtc_probability = 1.5f; }},
      {"unknown sampler", [](auto& o) { o.samplers = {"top-quark"}; }},
      {"token 1000000",
       [](auto& o) {
         o.logit_bias = {{1'000'000, 1.0f}};
       }},
      {"token -1",
       [](auto& o) {
         o.logit_bias = {{-1, 1.0f}};
       }},
      {"token 5",
       [](auto& o) {
         o.logit_bias = {{5, std::numeric_limits<float>::infinity()}};
       }},
  };
  for (const auto& [says, change] : changes) {
    SamplingOptions options;
    change(options);
    const Status status = engine->CheckSampling(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << says;
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
    // The conversation is unchanged, and can be asked again.
    const auto conversation = *engine->NewConversation({});
    ASSERT_TRUE(conversation->AddText("x").ok());
    EXPECT_FALSE(engine->Answer(*conversation, {.max_tokens = 1, .sampling = options}).ok());
    EXPECT_TRUE(engine->Answer(*conversation, {.max_tokens = 1}).ok());
  }
}

TEST(EngineOptionsTest, SamplersHaveTheNamesOfLlamaCpp) {
  EXPECT_EQ(*ParseSamplers("top-k;topp;min_p;TEMP;nucleus;typical-p"),
            (std::vector<std::string>{"top_k", "top_p", "min_p", "temperature", "top_p", "typ_p"}));
  std::vector<std::string> first_nine = SamplerNames();
  first_nine.resize(9);
  EXPECT_EQ(*ParseSamplerLetters("edskypmxt"), first_nine);
  EXPECT_FALSE(ParseSamplers("top_k;").ok());
  EXPECT_FALSE(ParseSamplerLetters("kz").ok());
  EXPECT_FALSE(ParseSamplerLetters("").ok());
}

TEST(EngineOptionsTest, ABudgetWithoutAPolicyMeansRetentive) {
  const auto engine = Load(Options());
  const auto plain = *engine->NewConversation({});
  EXPECT_EQ(plain->cache_options().policy.name, "full");
  const auto limited = *engine->NewConversation({.budget = *ParseBudget("20%")});
  EXPECT_EQ(limited->cache_options().policy.name, "retentive");
  const auto refused =
      engine->NewConversation({.policy = *ParsePolicySpec("full"), .budget = *ParseBudget("20%")});
  EXPECT_NE(refused.status().message().find("retentive"), std::string::npos);
}

}  // namespace
}  // namespace rkv
