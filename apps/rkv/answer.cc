#include "answer.h"

#include <iostream>

#include "serve/stop_filter.h"
#include "terminal.h"

namespace rkv::app {

Result<AnswerResult> StreamAnswer(Engine& engine, Conversation& conversation,
                                  const CommonFlags& flags) {
  ProgressLine progress;
  const Interrupts::Answering answering;
  AnswerOptions options;
  options.max_tokens = flags.n_predict;
  options.sampling = flags.sampling;
  options.cancel = answering.cancel();
  options.on_progress = [&](std::string_view what, double f) { progress.Show(what, f); };
  StopFilter stop(flags.stops);
  options.on_text = [&](std::string_view piece) {
    progress.Clear();
    std::cout << stop.Push(piece) << std::flush;
    return std::cout.good() && !stop.stopped();
  };
  RKV_ASSIGN_OR_RETURN(AnswerResult answer, engine.Answer(conversation, options));
  progress.Clear();
  if (stop.stopped()) answer.stop = StopReason::kEndOfAnswer;
  std::cout << stop.Finish();
  std::cout << std::endl;
  RKV_RETURN_IF_ERROR(CheckFinite(answer));
  return answer;
}

}  // namespace rkv::app
