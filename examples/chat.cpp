// Asks questions about a picture with a bounded cache, through the C++ interface.
//
//   chat model.gguf mmproj.gguf picture.png question...
#include <retentivekv/engine.h>

#include <cstdio>
#include <string>

int Fail(const rkv::Status& status) {
  std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "usage: chat model mmproj picture question...\n"), 2;
  rkv::EngineOptions options;
  options.model = argv[1];
  options.mmproj = argv[2];
  auto engine = rkv::Engine::Load(options);
  if (!engine.ok()) return Fail(engine.status());

  rkv::CacheOptions cache;
  cache.policy.name = "retentive";
  cache.budget = {.unit = rkv::Budget::Unit::kPercent, .amount = 20};
  auto conversation = (*engine)->NewConversation(cache);
  if (!conversation.ok()) return Fail(conversation.status());

  std::vector<std::string> pictures = {argv[3]};
  for (int i = 4; i < argc; ++i) {
    const rkv::Status added = (*conversation)->AddUserMessage(argv[i], pictures);
    if (!added.ok()) return Fail(added);
    pictures.clear();  // The conversation keeps them.
    rkv::AnswerOptions greedy;
    greedy.sampling.temperature = 0;
    const auto answer = (*engine)->Answer(**conversation, greedy);
    if (!answer.ok()) return Fail(answer.status());
    std::printf("%s\n%s\n", argv[i], answer->text.c_str());
  }
  const rkv::CacheStats stats = (*conversation)->stats();
  std::printf("held %llu of %llu bytes\n", static_cast<unsigned long long>(stats.held_bytes),
              static_cast<unsigned long long>(stats.full_bytes));
  return 0;
}
