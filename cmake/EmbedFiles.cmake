# Writes a C++ source with the bytes of files:
#   cmake -DOUTPUT=FILE -DROOT=DIR -DFILES=a;b/c -P EmbedFiles.cmake
# The source defines what apps/rkv/serve/page.h declares; names are relative to ROOT.
set(arrays "")
set(table "")
set(number 0)
foreach(name IN LISTS FILES)
  file(READ "${ROOT}/${name}" bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "constexpr unsigned char kFile${number}[] = {${bytes}};\n")
  string(APPEND table
    "      {\"${name}\", {reinterpret_cast<const char*>(kFile${number}), sizeof(kFile${number})}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE "${OUTPUT}" "// Made by cmake/EmbedFiles.cmake.
#include \"serve/page.h\"

namespace rkv::app {

namespace {
${arrays}
}  // namespace

const std::map<std::string_view, std::string_view>& PageFiles() {
  static const std::map<std::string_view, std::string_view> files = {
${table}  };
  return files;
}

}  // namespace rkv::app
")
