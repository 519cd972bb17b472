#include "answer.h"

#include <iostream>

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
  StopFilter stop(flags.stops);
  options.on_text = [&](std::string_view piece) {
    progress.Clear();
    std::cout << ForStdout(stop.Push(piece)) << std::flush;
    return std::cout.good() && !stop.stopped();
  };
  progress.Show("reading the prompt", 0);
  RKV_ASSIGN_OR_RETURN(AnswerResult answer, engine.Answer(conversation, options));
  progress.Clear();
  if (stop.stopped()) answer.stop = StopReason::kEndOfAnswer;
  std::cout << ForStdout(stop.Finish());
  std::cout << std::endl;
  RKV_RETURN_IF_ERROR(CheckFinite(answer));
  return answer;
}

}  // namespace rkv::app
