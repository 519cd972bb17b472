// Requests and answers of the OpenAI protocol, without a server. Includes mutated requests.
#include "serve/api.h"

#include <gtest/gtest.h>

#include <random>

namespace rkv::app {
namespace {

using nlohmann::json;

Result<GenerationRequest> ParseChat(const std::string& body, const ParseContext& context = {}) {
  RKV_ASSIGN_OR_RETURN(const json parsed, ParseJson(body));
  return ParseChatRequest(parsed, context);
}

std::string Why(const std::string& body) {
  const auto request = ParseChat(body);
  return request.ok() ? "" : request.status().message();
}

std::string WithFields(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}";
}

TEST(ApiTest, ReadsAChatRequest) {
  const auto request = ParseChat(R"({
    "model": "any", "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": 42, "max_tokens": 9,
    "stop": "END", "stream": true, "stream_options": {"include_usage": true},
    "logprobs": true, "top_logprobs": 3, "session_id": "user-1", "user": "ignored",
    "kv": {"policy": "streaming:sinks=2", "budget": "20%"}, "n": 1, "presence_penalty": 0.0,
    "response_format": {"type": "text"}, "tools": [],
    "messages": [
      {"role": "developer", "content": "be brief"},
      {"role": "user", "content": [
        {"type": "text", "text": "what is "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,Zm9v"}},
        {"type": "image_url", "image_url": "data:;base64,YmFy"},
        {"type": "text", "text": "this"}]}]})");
  ASSERT_TRUE(request.ok()) << request.status().message();
  EXPECT_EQ(request->sampling.temperature, 0);
  EXPECT_EQ(request->sampling.top_p, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.seed, 42u);
  EXPECT_EQ(request->max_tokens, 9);
  EXPECT_EQ(request->stop, std::vector<std::string>{"END"});
  EXPECT_TRUE(request->stream);
  EXPECT_TRUE(request->include_usage);
  EXPECT_EQ(request->top_logprobs, 3);
  EXPECT_EQ(request->session, "user-1");
  EXPECT_EQ(ToString(request->cache.policy), "streaming:sinks=2");
  EXPECT_EQ(ToString(request->cache.budget), "20%");
  ASSERT_EQ(request->messages.size(), 2u);
  EXPECT_EQ(request->messages[0].role, "system");
  const auto& parts = request->messages[1].parts;
  ASSERT_EQ(parts.size(), 4u);
  EXPECT_EQ(parts[1].media->bytes, "foo");
  EXPECT_EQ(parts[2].media->bytes, "bar");
  EXPECT_EQ(parts[3].text, "this");
}

TEST(ApiTest, WhatChangesNothingIsTaken) {
  ParseContext context;
  context.defaults.cache.budget = *ParseBudget("20%");
  context.defaults.cache.policy = *ParsePolicySpec("retentive");
  const auto request = ParseChat(
      WithFields(R"("max_tokens":-1,"top_k":-1,"repeat_penalty":1.0,"typical_p":1,"echo":false,)"
                 R"("mirostat":0,"kv":{"policy":"full"})"),
      context);
  ASSERT_TRUE(request.ok()) << request.status().message();
  EXPECT_EQ(request->max_tokens, context.defaults.max_tokens);
  EXPECT_EQ(request->sampling.top_k, -1);
  EXPECT_TRUE(request->cache.budget.unlimited());
}

TEST(ApiTest, ReadsTheSamplersOfLlamaCpp) {
  const auto request = ParseChat(WithFields(
      R"("typical_p":0.9,"top_n_sigma":1,"xtc_probability":0.5,"xtc_threshold":0.2,)"
      R"("dynatemp_range":0.5,"dynatemp_exponent":2,"repeat_last_n":128,"repeat_penalty":1.1,)"
      R"("presence_penalty":0.25,"frequency_penalty":-0.5,"dry_multiplier":0.8,"dry_base":2,)"
      R"("dry_allowed_length":3,"dry_penalty_last_n":32,"dry_sequence_breakers":["\n","."],)"
      R"("mirostat":2,"mirostat_tau":4,"mirostat_eta":0.2,"grammar":"root ::= \"a\"",)"
      R"("samplers":["top_k","temperature"],"logit_bias":{"15043":-100,"7":1.5})"));
  ASSERT_TRUE(request.ok()) << request.status().message();
  const SamplingOptions& sampling = request->sampling;
  EXPECT_EQ(sampling.typical_p, 0.9f);
  EXPECT_EQ(sampling.top_n_sigma, 1.0f);
  EXPECT_EQ(sampling.xtc_probability, 0.5f);
  EXPECT_EQ(sampling.xtc_threshold, 0.2f);
  EXPECT_EQ(sampling.dynatemp_range, 0.5f);
  EXPECT_EQ(sampling.dynatemp_exponent, 2.0f);
  EXPECT_EQ(sampling.repeat_last_n, 128);
  EXPECT_EQ(sampling.repeat_penalty, 1.1f);
  EXPECT_EQ(sampling.presence_penalty, 0.25f);
  EXPECT_EQ(sampling.frequency_penalty, -0.5f);
  EXPECT_EQ(sampling.dry_multiplier, 0.8f);
  EXPECT_EQ(sampling.dry_base, 2.0f);
  EXPECT_EQ(sampling.dry_allowed_length, 3);
  EXPECT_EQ(sampling.dry_penalty_last_n, 32);
  EXPECT_EQ(sampling.dry_sequence_breakers, (std::vector<std::string>{"\n", "."}));
  EXPECT_EQ(sampling.mirostat, 2);
  EXPECT_EQ(sampling.mirostat_tau, 4.0f);
  EXPECT_EQ(sampling.mirostat_eta, 0.2f);
  EXPECT_EQ(sampling.grammar, "root ::= \"a\"");
  EXPECT_EQ(sampling.samplers, (std::vector<std::string>{"top_k", "temperature"}));
  ASSERT_EQ(sampling.logit_bias.size(), 2u);
  EXPECT_EQ(sampling.logit_bias[0], (std::pair<int32_t, float>(15043, -100.0f)));
  const auto list = ParseChat(WithFields(R"("logit_bias":[[7,false],[8,-1]],"samplers":"kt")"));
  ASSERT_TRUE(list.ok()) << list.status().message();
  EXPECT_LT(list->sampling.logit_bias[0].second, -1e38f);
  EXPECT_EQ(list->sampling.samplers, (std::vector<std::string>{"top_k", "temperature"}));
}

TEST(ApiTest, ABudgetWithoutAPolicyMeansRetentive) {
  ParseContext context;
  context.defaults.cache.policy = *ParsePolicySpec("full");
  EXPECT_EQ(ParseChat(WithFields(R"("kv":{"budget":"20%"})"), context)->cache.policy.name,
            "retentive");
  context.defaults.cache.policy = *ParsePolicySpec("h2o");
  context.defaults.cache.budget = *ParseBudget("50%");
  EXPECT_EQ(ParseChat(WithFields(R"("kv":{"budget":"20%"})"), context)->cache.policy.name, "h2o");
}

TEST(ApiTest, WrongRequestsNameTheField) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"\"text\"", "JSON object"},
      {"{}", "'messages'"},
      {R"({"messages":[]})", "'messages'"},
      {R"({"messages":"hi"})", "'messages'"},
      {R"({"messages":[1]})", "'messages[0]'"},
      {R"({"messages":[{"role":"robot","content":"x"}]})", "'messages[0].role'"},
      {R"({"messages":[{"role":"user"}]})", "'messages[0].content'"},
      {R"({"messages":[{"role":"user","content":[1]}]})", "'messages[0].content[0]'"},
      {R"({"messages":[{"role":"user","content":[{"type":"video"}]}]})",
       "'messages[0].content[0].type'"},
      {R"({"messages":[{"role":"user","content":"a\u0000b"}]})", "NUL"},
      {R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]})",
       "the last of 'messages'"},
      {R"({"messages":[{"role":"system","content":[{"type":"image_url","image_url":"data:;base64,Zm9v"}]}]})",
       "only a user's"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":"http://x/y.png"}]}]})",
       "--allow-remote-images"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":"file:///etc/passwd"}]}]})",
       "data URL"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":"data:image/png;base64,!"}]}]})",
       "base64"},
      {WithFields(R"("temperature":"hot")"), "'temperature'"},
      {WithFields(R"("temperature":-1)"), "'temperature'"},
      {WithFields(R"("top_p":1.5)"), "'top_p'"},
      {WithFields(R"("max_tokens":0)"), "'max_tokens'"},
      {WithFields(R"("max_tokens":1e30)"), "'max_tokens'"},
      {WithFields(R"("max_tokens":18446744073709551615)"), "'max_tokens'"},
      {WithFields(R"("seed":"1")"), "'seed'"},
      {WithFields(R"("stop":[""])"), "'stop'"},
      {WithFields(R"("stop":7)"), "'stop'"},
      {WithFields(R"("stream":1)"), "'stream'"},
      {WithFields(R"("stream_options":[])"), "'stream_options'"},
      {WithFields(R"("logprobs":2)"), "'logprobs'"},
      {WithFields(R"("top_logprobs":2)"), "'logprobs'"},
      {WithFields(R"("session_id":"../../etc")"), "'session_id'"},
      {WithFields(R"("session_id":"a/b")"), "'session_id'"},
      {WithFields(R"("kv":"20%")"), "'kv'"},
      {WithFields(R"("kv":{"budget":"0.2"})"), "unit"},
      {WithFields(R"("kv":{"budget":20})"), "'kv.budget'"},
      {WithFields(R"("n":2)"), "'n'"},
      {WithFields(R"("tools":[{}])"), "'tools'"},
      {WithFields(R"("frequency_penalty":"much")"), "'frequency_penalty'"},
      {WithFields(R"("presence_penalty":1e300)"), "'presence_penalty'"},
      {WithFields(R"("repetition_penalty":1.1)"), "'repetition_penalty' is not supported; it is"},
      {WithFields(R"("dry_multiplier":[])"), "'dry_multiplier'"},
      {WithFields(R"("dry_sequence_breakers":"x")"), "'dry_sequence_breakers'"},
      {WithFields(R"("mirostat":1.5)"), "'mirostat'"},
      {WithFields(R"("samplers":[])"), "'samplers'"},
      {WithFields(R"("samplers":[1])"), "'samplers'"},
      {WithFields(R"("samplers":{"a":"top_k"})"), "'samplers'"},
      {WithFields(R"("samplers":["top-quark"])"), "top_n_sigma"},
      {WithFields(R"("logit_bias":7)"), "'logit_bias'"},
      {WithFields(R"("logit_bias":{"x":1})"), "'logit_bias'"},
      {WithFields(R"("logit_bias":{"-1":1})"), "'logit_bias'"},
      {WithFields(R"("logit_bias":{"1":true})"), "'logit_bias'"},
      {WithFields(R"("logit_bias":[["Hello",1]])"), "'logit_bias'"},
      {WithFields(R"("logit_bias":[[1,2,3]])"), "'logit_bias'"},
      {WithFields(R"("grammar":7)"), "'grammar'"},
      {WithFields(R"("echo":true)"), "'echo'"},
      {WithFields(R"("response_format":{"type":"json_object"})"), "'response_format'"},
  };
  for (const auto& [body, says] : cases) {
    EXPECT_NE(Why(body).find(says), std::string::npos) << body << "\n" << Why(body);
  }
}

TEST(ApiTest, RemotePicturesAreFetchedWhereThatIsAllowed) {
  ParseContext context;
  context.fetch = [](const std::string& url) -> Result<std::string> { return "bytes of " + url; };
  const auto request = ParseChat(
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}]})",
      context);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->messages[0].parts[0].media->bytes, "bytes of https://x/y");
}

// Any input gives a request or an error, and no crash.
TEST(ApiTest, MutatedRequestsAreAnsweredOrRefused) {
  const std::string good =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url",)"
      R"("image_url":{"url":"data:image/png;base64,Zm9v"}}]}],"max_tokens":3,"stop":["a","b"],)"
      R"("kv":{"policy":"h2o","budget":"20%"},"seed":1,"stream":true})";
  std::mt19937 random(7);
  int n_good = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string body = good;
    for (int change = static_cast<int>(random() % 4); change >= 0; --change) {
      const size_t at = random() % body.size();
      switch (random() % 4) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, random() % 9);
          break;
        case 2:
          body.insert(at, body.substr(random() % body.size(), random() % 30));
          break;
        default:
          body[at] = "[]{}\",:0-e"[random() % 10];
      }
      if (body.empty()) body.push_back(' ');
    }
    n_good += ParseChat(body).ok();
  }
  EXPECT_GT(n_good, 100);
  EXPECT_LT(n_good, 19000);
}

TEST(ApiTest, DeepNestingIsNoCrash) {
  EXPECT_FALSE(ParseChat(std::string(2000000, '[')).ok());
  const std::string deep = std::string(300000, '[') + std::string(300000, ']');
  EXPECT_NE(Why("{\"messages\":" + deep + "}"), "");
  EXPECT_NE(Why(WithFields("\"stop\":" + deep)), "");
}

TEST(ApiTest, PicturesAreCountedBeforeTheyAreDecoded) {
  const auto body = [](size_t n) {
    const json part = {{"type", "image_url"}, {"image_url", {{"url", "data:,"}}}};
    json content = json::array();
    for (size_t i = 0; i < n; ++i) content.push_back(part);
    return json{{"messages", {{{"role", "user"}, {"content", content}}}}}.dump();
  };
  EXPECT_NE(Why(body(256)).find("data URL"), std::string::npos) << Why(body(256));
  EXPECT_NE(Why(body(40000)).find("40000 pictures and clips; a request takes up to 256"),
            std::string::npos)
      << Why(body(40000));
}

TEST(ApiTest, KeysTellConversationsApart) {
  const auto text = [](const std::string& role, const std::string& said) {
    return Message{.role = role, .parts = {{.text = said, .media = {}}}};
  };
  Message picture = text("user", "what");
  picture.parts.push_back({.text = {}, .media = MediaFile{.name = "a", .bytes = "pixels"}});
  const std::vector<Message> chat = {text("system", "s"), text("user", "q"),
                                     text("assistant", "a")};
  const auto keys = PrefixKeys("scope", chat);
  ASSERT_EQ(keys.size(), 3u);
  EXPECT_EQ(keys[2], NextKey(keys[1], chat[2]));
  EXPECT_EQ(keys[2], NextKey(keys[1], text("assistant", " a\n")));  // Clients trim answers.
  EXPECT_NE(keys[1], NextKey(keys[0], text("user", "q ")));
  EXPECT_NE(keys[1], NextKey(keys[0], text("system", "q")));
  EXPECT_NE(keys, PrefixKeys("other", chat));
  // The division of a text into parts does not matter; the place and bytes of a picture do.
  Message split{.role = "user",
                .parts = {{.text = "wh", .media = {}}, {.text = "at", .media = {}}}};
  EXPECT_EQ(NextKey("", split), NextKey("", text("user", "what")));
  Message before = picture;
  std::swap(before.parts[0], before.parts[1]);
  EXPECT_NE(NextKey("", picture), NextKey("", before));
  Message other = picture;
  other.parts[1].media->bytes = "pixelz";
  EXPECT_NE(NextKey("", picture), NextKey("", other));
  other = picture;
  other.parts[1].media->name = "b";
  EXPECT_EQ(NextKey("", picture), NextKey("", other));
}

TEST(ApiTest, AnswersHaveTheFormThatClientsKnow) {
  GenerationRequest request;
  request.messages.push_back({.role = "user", .parts = {}});
  request.top_logprobs = 1;
  request.include_usage = true;
  const ResponseWriter writer(request, "name");
  AnswerSummary summary{.finish_reason = "length",
                        .result = {.text = "hi", .n_prompt_tokens = 4, .n_generated = 2},
                        .n_cached_tokens = 10,
                        .kv = {{"held_bytes", 5}, {"full_bytes", 50}},
                        .conversation_id = "id"};
  const AnswerPiece piece{.text = "hi",
                          .logprobs = {{.chosen = {"hi", -0.5f}, .top = {{"ho", -1}}}}};
  const json whole = writer.Whole(piece, summary);
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["model"], "name");
  EXPECT_EQ(whole["choices"][0]["message"], (json{{"role", "assistant"}, {"content", "hi"}}));
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["content"][0]["token"], "hi");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["token"], "ho");
  EXPECT_EQ(whole["usage"]["prompt_tokens"], 14);
  EXPECT_EQ(whole["usage"]["total_tokens"], 16);
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 10);
  EXPECT_EQ(whole["usage"]["kv_bytes"], 5);
  EXPECT_EQ(whole["usage"]["kv_bytes_full"], 50);
  EXPECT_EQ(whole["conversation_id"], "id");

  EXPECT_EQ(writer.Start()[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(writer.Piece(piece)["object"], "chat.completion.chunk");
  EXPECT_EQ(writer.Piece(piece)["choices"][0]["delta"]["content"], "hi");
  const json thought = writer.Piece({.reasoning = "hm"});
  EXPECT_EQ(thought["choices"][0]["delta"], (json{{"reasoning_content", "hm"}}));
  EXPECT_EQ(writer.Whole({.text = "hi", .reasoning = "hm"}, summary)["choices"][0]["message"],
            (json{{"role", "assistant"}, {"content", "hi"}, {"reasoning_content", "hm"}}));
  const auto end = writer.End(summary);
  ASSERT_EQ(end.size(), 2u);
  EXPECT_EQ(end[0]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(end[1]["choices"].empty());
  EXPECT_EQ(end[1]["usage"]["completion_tokens"], 2);
}

TEST(ApiTest, BytesThatAreNoTextStayJson) {
  EXPECT_TRUE(json::accept(Dump({{"token", "\xFF\xC3"}})));
}

TEST(ApiTest, WhatIsSentIsWhatAClientCanSendBack) {
  EXPECT_EQ(AsSent("Gr\xC3\xB6\xC3\x9F"
                   "e \xE6\x97\xA5 \xF0\x9F\x98\x80"),
            "Größe 日 😀");
  EXPECT_EQ(AsSent(""), "");
  for (const std::string& text :
       {std::string("\xFF"), std::string("a\xC3("), std::string("\xC0\x80"),
        std::string("\xED\xA0\x80"), std::string("\xF5\x80\x80\x80"), std::string("\x80\x80"),
        std::string("a\0b", 3)}) {
    const std::string sent = AsSent(text);
    EXPECT_NE(sent.find("\xEF\xBF\xBD"), std::string::npos) << sent;
    EXPECT_EQ(sent.find('\0'), std::string::npos);
    EXPECT_EQ(AsSent(sent), sent);
    EXPECT_EQ(json::parse(Dump(sent)).get<std::string>(), sent);
  }
}

}  // namespace
}  // namespace rkv::app
