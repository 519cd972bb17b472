#include "answer.h"

#include <iostream>
#include <utility>

#include "serve/stop_filter.h"
#include "terminal.h"

namespace rkv::app {

Result<AnswerResult> Ask(Engine& engine, Conversation& conversation, std::string_view message,
                         std::span<const std::string> media, const CommonFlags& flags) {
  ProgressLine progress;
  const Interrupts::Answering answering;
  progress.Show(media.empty() ? "reading the message" : "reading the files", 0);
  RKV_RETURN_IF_ERROR(conversation.AddUserMessage(message, media));
  AnswerOptions options;
  options.max_tokens = flags.n_predict;
  options.sampling = flags.sampling;
  options.cancel = answering.cancel();
  options.on_progress = [&](std::string_view what, double f) { progress.Show(what, f); };
  // Reasoning is no part of the answer, so stdout gets none.
  bool thinking = false;
  options.on_reasoning = [&](std::string_view piece) {
    progress.Clear();
    if (!std::exchange(thinking, true)) TellText("[Start thinking]\n");
    TellText(piece);
    return true;
  };
  const auto end_thinking = [&] {
    if (std::exchange(thinking, false)) TellText("\n[End thinking]\n\n");
  };
  StopFilter stop(flags.stops);
  options.on_text = [&](std::string_view piece) {
    progress.Clear();
    end_thinking();
    std::cout << ForStdout(stop.Push(piece)) << std::flush;
    return std::cout.good() && !stop.stopped();
  };
  progress.Show("reading the prompt", 0);
  RKV_ASSIGN_OR_RETURN(AnswerResult answer, engine.Answer(conversation, options));
  progress.Clear();
  end_thinking();
  if (stop.stopped()) answer.stop = StopReason::kEndOfAnswer;
  std::cout << ForStdout(stop.Finish());
  std::cout << std::endl;
  RKV_RETURN_IF_ERROR(CheckFinite(answer));
  return answer;
}

}  // namespace rkv::app
