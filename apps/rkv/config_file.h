// Flags from a file: --config, and presets in it.
#ifndef RETENTIVEKV_APPS_RKV_CONFIG_FILE_H_
#define RETENTIVEKV_APPS_RKV_CONFIG_FILE_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "retentivekv/status.h"

namespace rkv::app {

// Adds --config and --preset to every command that takes flags from a file.
void AddConfigFlags(CLI::App& program);

// Lets the program take flags from a file. `arguments` (the last first, as CLI11 wants them) or
// RKV_CONFIG name the file; else the user's own file is used if it exists. Flags and the
// environment have precedence over the file. kBadFile if the named file cannot be read.
Status UseConfigFile(CLI::App& program, const std::vector<std::string>& arguments);

// $XDG_CONFIG_HOME/rkv/config.ini, by default in ~/.config; empty without a home.
std::string DefaultConfigPath();

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CONFIG_FILE_H_
