// Flags of llama.cpp that rkv refuses, with alternatives, and the search for similar names.
#include "refused_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace rkv::app {

namespace {

struct LlamaFlags {
  const char* flags;  // with a space before and after each
  const char* instead;
};

// From llama.cpp 0.5.0's common/arg.cpp and llama-bench; tests/cli_test.cc compares them.
constexpr LlamaFlags kFlags[] = {
    {" -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -mu --model-url -mmu --mmproj-url -dr "
     "--docker-repo --offline -cl --cache-list ",
     "rkv downloads nothing: pass files with -m and -mm"},
    {" --usage ", "rkv help COMMAND shows the flags"},
    {" --no-jinja --skip-chat-parsing --no-skip-chat-parsing --prefill-assistant "
     "--no-prefill-assistant --reasoning-budget --reasoning-budget-message "
     "--reasoning-preserve --no-reasoning-preserve ",
     "chat templates always run in Jinja; --chat-template chooses another, and --reasoning off "
     "turns thoughts off"},
    {" --reasoning-effort ", "use --chat-template-kwargs '{\"reasoning_effort\":\"low\"}'"},
    {" --no-mmproj --mmproj-auto --no-mmproj-auto ",
     "a projector is only used if -mm names it: leave the flag out"},
    {" -fa --flash-attn ", "attention always runs fused, over rkv's own cache: leave the flag out"},
    {" -cnv --conversation -no-cnv --no-conversation -st --single-turn -i --interactive -if "
     "--interactive-first ",
     "use rkv chat for a conversation, and rkv run for single answers"},
    {" -mli --multiline-input --simple-io --in-prefix --in-prefix-bos --in-suffix --spm-infill ",
     "rkv chat reads lines from the terminal as they are"},
    {" --in-file -bf --binary-file ", "use -f"},
    {" -e --escape ", "escapes in -p are replaced unless --no-escape is given"},
    {" --keep --context-shift --no-context-shift ",
     "--budget and --policy choose the tokens to keep; sinks=N of a policy keeps the first ones"},
    {" --swa-full -ctxcp --ctx-checkpoints --swa-checkpoints -cms --checkpoint-min-step -cram "
     "--cache-ram -kvu --kv-unified -no-kvu --no-kv-unified --kv-unified-per-slot "
     "--cache-idle-slots --no-cache-idle-slots -kvo --kv-offload -nkvo --no-kv-offload -dt "
     "--defrag-thold ",
     "rkv replaces llama.cpp's cache; see --budget, --policy, and --memory of rkv serve"},
    {" --prompt-cache --prompt-cache-all --prompt-cache-ro --slot-save-path ",
     "use /save in rkv chat, or --park of rkv serve"},
    {" --cache-prompt --no-cache-prompt --cache-reuse -sps --slot-prompt-similarity ",
     "rkv never reads a continued conversation again: leave the flag out"},
    {" -dev --device --list-devices -sm --split-mode -ts --tensor-split -mg --main-gpu -ot "
     "--override-tensor -cmoe --cpu-moe -ncmoe --n-cpu-moe -ncffn --n-cpu-ffn -fit --fit -fitp "
     "--fit-print -fitt --fit-target -fitc --fit-ctx --no-host --op-offload --no-op-offload -nopo "
     "--mmproj-offload --no-mmproj-offload --repack -nr --no-repack -mmdev --mmproj-device ",
     "rkv runs on the CPU, or on RPC servers with --rpc: leave the flag out"},
    {" -lzm --lazy-mode --check-tensors ", "use --load-mode to choose how weights are loaded"},
    {" -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch --prio-batch --poll-batch ",
     "the flag without -batch applies to prompts and answers"},
    {" -lcs --lookup-cache-static -lcd --lookup-cache-dynamic --mtp --dflash --eagle3 -md "
     "--model-draft --draft --draft-n --draft-max --draft-min --draft-n-min --draft-p-split "
     "--draft-p-min -hfd -hfrd --hf-repo-draft -td --threads-draft -tbd --threads-batch-draft -Cd "
     "--cpu-mask-draft -Crd --cpu-range-draft --cpu-strict-draft --prio-draft --poll-draft -Cbd "
     "--cpu-mask-batch-draft -Crbd --cpu-range-batch-draft --cpu-strict-batch-draft "
     "--prio-batch-draft --poll-batch-draft -ctkd --cache-type-k-draft -ctvd --cache-type-v-draft "
     "-otd --override-tensor-draft -cmoed --cpu-moe-draft -ncmoed --n-cpu-moe-draft -devd "
     "--device-draft -ngld --gpu-layers-draft --n-gpu-layers-draft ",
     "rkv has no speculative decoding: leave the flag out"},
    {" -gan --grp-attn-n -gaw --grp-attn-w ", "use --rope-scaling and the --yarn flags"},
    {" -bs --backend-sampling ", "samplers run on the CPU: leave the flag out"},
    {" -j --json-schema -jf --json-schema-file ",
     "pass a GBNF grammar with --grammar or --grammar-file"},
    {" --embedding --embeddings -embd --rerank --reranking --pooling --attention --embd-normalize "
     "--embd-output-format --embd-separator --cls-separator ",
     "rkv generates text and has no embeddings"},
    {" --video --video-fps --video-timestamp-interval --video-ffmpeg-dir --mtmd-batch-max-tokens ",
     "rkv takes pictures (--image) and clips (--audio)"},
    {" --warmup --no-warmup ", "rkv has no warm-up: leave the flag out"},
    {" --perf --no-perf --show-timings --no-show-timings -ptc --print-token-count ",
     "rkv run prints the speed to stderr, and --kv-report writes it to a file"},
    {" --display-prompt --no-display-prompt --verbose-prompt -co --color -sp --special "
     "--server-base ",
     "rkv run writes only the answers to stdout"},
    {" --log-disable -lv --verbosity --log-verbosity --log-verbose --log-prefix --no-log-prefix "
     "--log-timestamps --no-log-timestamps --log-jsonl --no-log-jsonl --log-colors "
     "--log-prompts-dir ",
     "rkv logs only errors unless -v is given; --log-file writes the log to a file"},
    {" --completion-bash ", "rkv completion bash prints the script"},
    {" -cb --cont-batching -nocb --no-cont-batching -ns --sequences ",
     "rkv serve always answers --parallel conversations together: leave the flag out"},
    {" --metrics --props --slots --no-slots ",
     "rkv serve always has /metrics, /props and /slots: leave the flag out"},
    {" --api-key-file --ssl-key-file --ssl-cert-file --cors-origins --cors-methods --cors-headers "
     "--cors-credentials --no-cors-credentials --api-prefix --threads-http --reuse-port "
     "--sse-ping-interval --sleep-idle-seconds ",
     "use a proxy in front of rkv serve (docs/scale.md)"},
    {" --ui --no-ui --webui --no-webui --ui-config --webui-config --ui-config-file "
     "--webui-config-file --ui-mcp-proxy --no-ui-mcp-proxy --webui-mcp-proxy --no-webui-mcp-proxy ",
     "rkv serve has a page of its own at /; --path serves another"},
    {" --tools --tools-runtime --mcp-servers-config --mcp-servers-json -ag --agent -no-ag "
     "--no-agent ",
     "rkv serve runs no tools"},
    {" --models-dir --models-preset --models-max --models-autoload --no-models-autoload --tags "
     "--lora-init-without-apply --media-path ",
     "rkv serve serves one model, which -m names at the start"},
};

// Flags of its other programs: training, measuring, voices, drafts of speculation by name ...
constexpr const char* kOther =
    " --chunks --samples --hellaswag --hellaswag-tasks --winogrande --winogrande-tasks "
    "--multiple-choice --multiple-choice-tasks --kl-divergence --save-all-logits "
    "--kl-divergence-base --ppl-stride --ppl-output-type --context-file --chunk-size "
    "--chunk-separator --junk --pos --output-file -ofreq --output-frequency --output-format "
    "--save-frequency --process-output --ppl --no-ppl --chunk --from-chunk --show-statistics "
    "--parse-special --no-parse-special --ids --stdin --no-bos --show-count -pps -tgs -npp -ntg "
    "-npl --positive-file --negative-file --pca-batch --pca-iter --method --tts-lang "
    "--tts-speaker-file -lr --learning-rate -lr-min --learning-rate-min -decay-epochs "
    "--learning-rate-decay-epochs -wd --weight-decay -val-split --val-split -epochs --epochs -opt "
    "--optimizer --check --save-logits --logits-output-dir --tensor-filter "
    "--gpt-oss-20b-default --gpt-oss-120b-default --delay --output-err --progress -oe -pg -rpc ";
// Common beginnings of such flags.
constexpr std::string_view kOtherBegins[] = {"--spec-", "--no-spec-",    "--diffusion-",
                                             "--fim-",  "--embd-gemma-", "--vision-gemma-"};

// The number of letters to add, drop, replace or swap with their neighbour between the two names.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before;
  std::vector<size_t> last;
  std::vector<size_t> now(b.size() + 1);
  std::iota(now.begin(), now.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    before = std::move(last);
    last = now;
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
  }
  return now.back();
}

}  // namespace

std::string_view InsteadOfLlamaFlag(std::string_view flag) {
  if (flag.size() < 2 || flag.find(' ') != std::string_view::npos) return {};
  const std::string word = fmt::format(" {} ", flag);
  for (const LlamaFlags& flags : kFlags) {
    if (std::string_view(flags.flags).find(word) != std::string_view::npos) return flags.instead;
  }
  const bool other = std::string_view(kOther).find(word) != std::string_view::npos ||
                     std::ranges::any_of(kOtherBegins, [flag](std::string_view begin) {
                       return flag.starts_with(begin);
                     });
  return other ? "it belongs to programs that rkv does not replace" : std::string_view();
}

std::string NearestName(std::string_view written, const std::vector<std::string>& names) {
  std::string nearest;
  size_t min_distance = written.size() / 3 + 1;  // upper limit
  for (const std::string& name : names) {
    // A missing end counts as one letter: --temperatur, --rep.
    const bool begins = written.size() >= 5 && name != written && name.starts_with(written);
    const size_t distance = begins ? 1 : EditDistance(written, name);
    if (distance >= min_distance && !(nearest.empty() && distance == min_distance)) continue;
    nearest = name;
    min_distance = distance;
  }
  return nearest;
}

}  // namespace rkv::app
