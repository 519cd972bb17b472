// Bodies of requests to rkv serve: any bytes give a request or an error that names the fault.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "serve/api.h"

namespace {

// The steps of a handler with a body, up to the first use of the model.
template <typename Parse>
void ParseBody(const nlohmann::json& body, const Parse& parse) {
  const rkv::Result<rkv::app::GenerationRequest> request = parse(body, rkv::app::ParseContext{});
  if (!request.ok()) {
    const rkv::app::ApiError error = rkv::app::ToApiError(request.status());
    if (error.message.empty() || error.status < 400) std::abort();
    (void)rkv::app::Dump(rkv::app::ErrorJson(error));
    return;
  }
  (void)rkv::app::PrefixKeys("fuzz", request->messages);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)rkv::app::DecodeDataUrl(text, "url");
  const rkv::Result<nlohmann::json> body = rkv::app::ParseJson(text);
  if (!body.ok()) return 0;
  ParseBody(*body, rkv::app::ParseChatRequest);
  ParseBody(*body, rkv::app::ParseCompletionRequest);
  (void)rkv::app::StringField(*body, "content");
  return 0;
}
