// A llama.cpp program that gives its cache to RetentiveKV: three lines differ from the usual ones.
//
//   attach model.gguf "prompt" [policy [budget]]      e.g. attach m.gguf "Once" streaming 256t
#include <retentivekv/retentivekv.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static void Die(const char* what, const char* why) {
  std::fprintf(stderr, "error: %s: %s\n", what, why);
  std::exit(1);
}

int main(int argc, char** argv) {
  if (argc < 3) Die("usage", "attach model.gguf prompt [policy [budget]]");
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) Die("cannot load", argv[1]);

  llama_context_params params = llama_context_default_params();
  rkv_cache* cache = rkv_attach(&params, argc > 3 ? argv[3] : "full", argc > 4 ? argv[4] : nullptr);
  if (cache == nullptr) Die("rkv_attach", rkv_last_error(nullptr));
  llama_context* ctx = llama_init_from_model(model, params);
  if (ctx == nullptr) Die("cannot make a context for", argv[1]);

  const llama_vocab* vocab = llama_model_get_vocab(model);
  const std::string prompt = argv[2];
  std::vector<llama_token> tokens(prompt.size() + 2);
  const int n = llama_tokenize(vocab, prompt.data(), static_cast<int>(prompt.size()), tokens.data(),
                               static_cast<int>(tokens.size()), true, true);
  tokens.resize(static_cast<size_t>(n));

  llama_sampler* sampler = llama_sampler_init_greedy();
  llama_batch batch = llama_batch_get_one(tokens.data(), n);
  for (int i = 0; i < 32; ++i) {
    if (rkv_decode(cache, ctx, batch) != 0) Die("rkv_decode", rkv_last_error(cache));
    llama_token token = llama_sampler_sample(sampler, ctx, -1);
    if (llama_vocab_is_eog(vocab, token)) break;
    char piece[128];
    const int length = llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, false);
    std::fwrite(piece, 1, static_cast<size_t>(length > 0 ? length : 0), stdout);
    tokens[0] = token;
    batch = llama_batch_get_one(tokens.data(), 1);
  }
  const rkv_stats stats = rkv_get_stats(cache, 0);
  std::fprintf(stderr, "\nholds %.1f of %.1f KiB, %llu of %llu tokens evicted\n",
               static_cast<double>(stats.held_bytes) / 1024,
               static_cast<double>(stats.full_bytes) / 1024,
               static_cast<unsigned long long>(stats.tokens_evicted),
               static_cast<unsigned long long>(stats.tokens_seen));
  llama_sampler_free(sampler);
  llama_free(ctx);
  rkv_detach(cache);
  llama_model_free(model);
  return 0;
}
