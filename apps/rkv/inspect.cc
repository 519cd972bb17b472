// rkv inspect: reports the contents of the cache after a conversation.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "flags.h"
#include "input.h"
#include "inspect/cell_map.h"
#include "inspect/overlay.h"
#include "inspect/text.h"
#include "output.h"
#include "report.h"
#include "terminal.h"

namespace rkv::app {

namespace {

struct InspectFlags {
  CommonFlags common;
  std::vector<std::string> prompts;
  bool no_escape = false;
  std::string load;
  std::string format = "text";
  std::string png;
  std::string svg;
  size_t picture = 1;
  HeadFilter filter;
};

struct Turn {
  std::string question;
  std::string answer;
};

class Inspector {
 public:
  explicit Inspector(InspectFlags& flags) : flags_(flags) {}

  Status Run() {
    RKV_RETURN_IF_ERROR(CheckFlags());
    RKV_ASSIGN_OR_RETURN(const CacheOptions options, ParseCacheOptions(flags_.common));
    const Interrupts interrupts;
    RKV_ASSIGN_OR_RETURN(engine_, LoadEngine(flags_.common));
    RKV_RETURN_IF_ERROR(CheckFilter(engine_->shape(), flags_.filter));
    if (flags_.load.empty()) {
      RKV_RETURN_IF_ERROR(Talk(options));
    } else {
      RKV_ASSIGN_OR_RETURN(conversation_, engine_->LoadConversation(flags_.load));
    }
    inspection_ = conversation_->Inspect();
    pictures_ = Pictures(inspection_);
    RKV_RETURN_IF_ERROR(WriteDrawings());
    std::cout << (flags_.format == "json" ? Json() : ForStdout(Text())) << std::flush;
    if (!std::cout) return Internal("cannot write to the output");
    return WriteReport(flags_.common.kv_report, *conversation_, answer_);
  }

 private:
  Status CheckFlags() const {
    if (flags_.load.empty() && flags_.prompts.empty()) {
      return InvalidArgument("nothing to inspect: pass a question with -p or a file with --load");
    }
    if (!flags_.load.empty() && !flags_.prompts.empty()) {
      return InvalidArgument("--load shows a saved conversation, so -p is not possible with it");
    }
    return StartLogging(flags_.common);
  }

  Status Talk(const CacheOptions& options) {
    RKV_ASSIGN_OR_RETURN(conversation_,
                         engine_->NewConversation(options, flags_.common.system_prompt));
    conversation_->StartTracing();
    for (const std::string& prompt : flags_.prompts) {
      const std::string question = flags_.no_escape ? prompt : Unescape(prompt);
      RKV_RETURN_IF_ERROR(conversation_->AddUserMessage(
          question, turns_.empty() ? flags_.common.media() : std::vector<std::string>()));
      ProgressLine progress;
      const Interrupts::Answering answering;
      AnswerOptions answer_options;
      answer_options.max_tokens = flags_.common.n_predict;
      answer_options.sampling = flags_.common.sampling;
      answer_options.cancel = answering.cancel();
      answer_options.on_progress = [&](std::string_view what, double f) { progress.Show(what, f); };
      RKV_ASSIGN_OR_RETURN(answer_, engine_->Answer(*conversation_, answer_options));
      progress.Clear();
      RKV_RETURN_IF_ERROR(CheckFinite(answer_));
      if (answer_.stop == StopReason::kCancelled) return Cancelled("interrupted");
      turns_.push_back({.question = question, .answer = answer_.text});
    }
    return OkStatus();
  }

  bool has_shares() const { return inspection_.answer_tokens > 0; }

  size_t n_heads() const { return Summarise(inspection_, flags_.filter).n_heads; }

  Status WriteDrawings() const {
    if (flags_.png.empty() && flags_.svg.empty()) return OkStatus();
    if (pictures_.empty()) {
      return InvalidArgument("--png and --svg need a picture, and the conversation has none");
    }
    if (flags_.picture < 1 || flags_.picture > pictures_.size()) {
      return InvalidArgument(
          fmt::format("--picture {} does not exist: the conversation has {}", flags_.picture,
                      pictures_.size() == 1 ? std::string("only picture 1")
                                            : fmt::format("pictures 1 to {}", pictures_.size())));
    }
    const std::vector<std::string>& files = flags_.common.images;
    if (files.empty()) {
      return InvalidArgument(
          "a saved conversation does not contain its pictures: pass them with --image");
    }
    if (files.size() != pictures_.size()) {
      return Unsupported(fmt::format(
          "{} picture files are {} pictures in the conversation, so they cannot be matched",
          files.size(), pictures_.size()));
    }
    const MediaSpan& span = pictures_[flags_.picture - 1];
    if (span.rows == 1 && span.columns > 1) {
      return Unsupported(
          "the model does not read pictures as a grid of cells, so there is none to draw");
    }
    const std::string& path = files[flags_.picture - 1];
    RKV_ASSIGN_OR_RETURN(const std::string bytes, ReadPicture(path));
    RKV_ASSIGN_OR_RETURN(const Raster picture, DecodePicture(bytes, path));
    const CacheOptions& options = conversation_->cache_options();
    const std::string title =
        fmt::format("{}, policy {}, {}: {}", std::filesystem::path(path).filename().string(),
                    ToString(options.policy),
                    options.budget.unlimited() ? "no budget" : "budget " + ToString(options.budget),
                    Describe(flags_.filter, n_heads()));
    const Overlay overlay = MakeOverlay(MakeCellMap(inspection_, span, flags_.filter),
                                        picture.width, picture.height, title, has_shares());
    if (!flags_.png.empty()) {
      RKV_RETURN_IF_ERROR(WriteOutput(flags_.png, EncodePng(DrawOverlay(overlay, picture))));
    }
    if (!flags_.svg.empty()) {
      RKV_RETURN_IF_ERROR(WriteOutput(flags_.svg, SvgOverlay(overlay, picture, bytes)));
    }
    return OkStatus();
  }

  std::string Text() const {
    std::string text;
    for (const Turn& turn : turns_) text += fmt::format("> {}\n{}\n", turn.question, turn.answer);
    text +=
        fmt::format("{}model: {}\n{}\n{}", text.empty() ? "" : "\n", engine_->model_description(),
                    DescribeCache(*conversation_), StatsText(inspection_.stats));
    if (!flags_.load.empty()) {
      text +=
          "note: a saved conversation has no trace of the cells read and of the tokens in each "
          "state; absorbed tokens count as forgotten\n";
    }
    const std::string heads = Describe(flags_.filter, n_heads());
    for (size_t i = 0; i < pictures_.size(); ++i) {
      const MediaSpan& span = pictures_[i];
      text +=
          fmt::format("\npicture {}: {} x {} cells, tokens {} to {}; {}\n", i + 1, span.columns,
                      span.rows, span.first_token, span.first_token + span.n_tokens() - 1, heads);
      text += MapText(MakeCellMap(inspection_, span, flags_.filter), has_shares());
    }
    text += fmt::format("\ntokens per head{}\n",
                        has_shares() ? ", and shares of the softmax in the last answer" : "");
    return text + LayerTable(inspection_, flags_.filter);
  }

  std::string Json() const {
    nlohmann::json json = InspectionJson(inspection_);
    json["model"] = engine_->model_description();
    json["kv"] = CacheJson(*conversation_);
    json["turns"] = nlohmann::json::array();
    for (const Turn& turn : turns_) {
      json["turns"].push_back({{"question", turn.question}, {"answer", turn.answer}});
    }
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
  }

  InspectFlags& flags_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Conversation> conversation_;
  std::vector<Turn> turns_;
  AnswerResult answer_;  // the last one
  Inspection inspection_;
  std::vector<MediaSpan> pictures_;
};

}  // namespace

void AddInspectCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand("inspect", "show the cache of a conversation");
  auto flags = std::make_shared<InspectFlags>();
  AddCommonFlags(*command, flags->common);
  const auto add = [command](const std::string& names, auto& value, const std::string& help) {
    return command->add_option(names, value, help)
        ->envname(EnvironmentName(names.substr(names.rfind("--"))));
  };
  Repeatable(add("-p,--prompt", flags->prompts, "question; several: repeat, one for each turn"))
      ->type_name("TEXT");
  command
      ->add_flag("--no-escape", flags->no_escape,
                 "do not replace escapes such as \\n and \\t in -p")
      ->envname("RKV_NO_ESCAPE");
  add("--load", flags->load, "conversation saved by rkv chat, instead of questions")
      ->type_name("FILE");
  add("-o,--output", flags->format, "output format: text or json")
      ->check(CLI::IsMember({"text", "json"}));
  add("--png", flags->png, "draw the cache over a picture, as PNG")->type_name("FILE");
  add("--svg", flags->svg,
      "draw the cache over a picture, as SVG, with the numbers of each cell as a tooltip")
      ->type_name("FILE");
  add("--picture", flags->picture, "number of the picture to draw (1)")->type_name("N");
  add("--layer", flags->filter.layer, "only this layer (0: the first); default: mean of all")
      ->check(kNonNegative)
      ->type_name("L");
  add("--head", flags->filter.kv_head, "only this KV head (0: the first); default: mean of all")
      ->check(kNonNegative)
      ->type_name("H");
  command->callback([flags, &exit_code] {
    const Status status = Inspector(*flags).Run();
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
