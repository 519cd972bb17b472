#ifndef RETENTIVEKV_APPS_RKV_REFERENCE_MODEL_H_
#define RETENTIVEKV_APPS_RKV_REFERENCE_MODEL_H_

#include <string>
#include <string_view>

#include "retentivekv/engine.h"

namespace rkv::app {

// Fills in the files of the named bundled model. Looks in $RKV_REFERENCE_DIR, beside an installed
// rkv (../share/retentivekv/reference), and in the source tree of the build.
Status UseReferenceModel(EngineOptions& options, std::string_view name = "reference");

// The path of a file beside the bundled model.
Result<std::string> FindReferenceFile(const std::string& name);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_REFERENCE_MODEL_H_
