// A text that the suites on prose read.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_EVAL_TEXT_H_
#define RETENTIVEKV_APPS_RKV_EVAL_EVAL_TEXT_H_

#include <string>

namespace rkv::app {

struct EvalText {
  std::string name;  // of its file, without folder and extension
  std::string text;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_EVAL_TEXT_H_
