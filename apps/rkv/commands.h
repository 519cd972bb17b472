// The subcommands. Each adds itself to the program; its result is the exit code.
#ifndef RETENTIVEKV_APPS_RKV_COMMANDS_H_
#define RETENTIVEKV_APPS_RKV_COMMANDS_H_

#include <CLI/CLI.hpp>

namespace rkv::app {

void AddRunCommand(CLI::App& program, int& exit_code);
void AddChatCommand(CLI::App& program, int& exit_code);
void AddServeCommand(CLI::App& program, int& exit_code);
void AddEvalCommand(CLI::App& program, int& exit_code);
void AddBenchCommand(CLI::App& program, int& exit_code);
void AddInspectCommand(CLI::App& program, int& exit_code);
void AddMakeModelCommand(CLI::App& program, int& exit_code);
void AddCompletionCommand(CLI::App& program, int& exit_code);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_COMMANDS_H_
