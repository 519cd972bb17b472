// The page of rkv serve: the files of web/, embedded in the program.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_PAGE_H_
#define RETENTIVEKV_APPS_RKV_SERVE_PAGE_H_

#include <map>
#include <string_view>

namespace rkv::app {

// Bytes by name, e.g. "index.html", "vendor/marked.js".
const std::map<std::string_view, std::string_view>& PageFiles();

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_PAGE_H_
