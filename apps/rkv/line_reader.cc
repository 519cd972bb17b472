// Line editing on a terminal with libedit's keys, and plain reading of other input. This file reads
// characters and draws the text itself.
#include "line_reader.h"

#include <fmt/format.h>
#include <histedit.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <utility>

#include "chat/characters.h"
#include "chat/history.h"
#include "chat/layout.h"
#include "terminal.h"

namespace rkv::app {

namespace {

constexpr std::string_view kPrompt = "> ";
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
// Larger than any context; the rest of a pasted text is left out.
constexpr size_t kMaxCharacters = size_t{1} << 22;
constexpr size_t kMaxListed = 100;

// The marks around pasted text, on request from the terminal.
constexpr const wchar_t* kPasteBegins = L"\\e[200~";
constexpr std::wstring_view kPasteEnds = L"\x1b[201~";
constexpr std::string_view kMarkPastes = "\x1b[?2004h";
constexpr std::string_view kStopMarkingPastes = "\x1b[?2004l";

// While libedit has the terminal, it exchanges the codes of Enter and Ctrl-J. So text typed earlier
// also ends lines.
constexpr const wchar_t* kEnter = L"^J";
constexpr const wchar_t* kCtrlJ = L"^M";
constexpr const wchar_t* kAltEnter = L"\\e^J";
constexpr const wchar_t* kAltCtrlJ = L"\\e^M";

void Write(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

struct Size {
  size_t columns = 80;
  size_t rows = 24;
};

Size TerminalSize() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    return {};
  }
  return {.columns = size.ws_col, .rows = size.ws_row};
}

// Notices changes of the window's size, and continuation after Ctrl-Z, during its life.
class ScreenChanges {
 public:
  ScreenChanges() {
    struct sigaction action {};
    // Both signals end the wait for a key, and then everything is drawn again.
    action.sa_handler = [](int signal) {
      const int saved_errno = errno;
      continued = continued | (signal == SIGCONT ? 1 : 0);
      Wakeup::Signal();
      errno = saved_errno;
    };
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGWINCH, &action, &old_resize_);
    ::sigaction(SIGCONT, &action, &old_continue_);
  }
  ~ScreenChanges() {
    ::sigaction(SIGWINCH, &old_resize_, nullptr);
    ::sigaction(SIGCONT, &old_continue_, nullptr);
  }
  ScreenChanges(const ScreenChanges&) = delete;
  ScreenChanges& operator=(const ScreenChanges&) = delete;

  static inline volatile std::sig_atomic_t continued = 0;

 private:
  struct sigaction old_resize_ {};
  struct sigaction old_continue_ {};
};

bool IsDumb(const char* terminal) {
  return terminal == nullptr || *terminal == '\0' || std::string_view(terminal) == "dumb";
}

}  // namespace

// libedit has the keys, the text and the editing functions. Reading and drawing are here: libedit
// would lose combining characters, and text that does not fit on the screen.
class LineReader::Editor {
 public:
  Editor(Complete complete, const std::string& history_path)
      : complete_(std::move(complete)),
        history_(history_path),
        nowhere_(std::fopen("/dev/null", "w")),
        line_(::el_init_fd("rkv", stdin, nowhere_, nowhere_, STDIN_FILENO, STDOUT_FILENO,
                           STDERR_FILENO)) {
    ::el_wset(line_, EL_CLIENTDATA, this);
    ::el_wset(
        line_, EL_GETCFN, +[](EditLine* line, wchar_t* c) { return Of(line).ReadCharacter(*c); });
    ::el_wset(
        line_, EL_PROMPT, +[](EditLine*) { return const_cast<wchar_t*>(L""); });
    ::el_wset(line_, EL_EDITOR, L"emacs");
    BindKeys();
  }
  ~Editor() {
    ::el_end(line_);
    std::fclose(nowhere_);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  std::optional<std::string> Next() {
    const ScreenChanges changes;
    const Interrupts::Editing editing;
    recalled_ = history_.entries().size();
    unsent_.clear();
    sent_ = false;
    cursor_row_ = 0;
    Write(kMarkPastes);
    int n = 0;
    (void)::el_wgets(line_, &n);
    const std::wstring text(Text());
    DrawAll(text);
    Write(kStopMarkingPastes);
    if (!sent_) return std::nullopt;
    std::string line = Narrow(text);
    history_.Add(line);
    return line;
  }

 private:
  static Editor& Of(EditLine* line) {
    void* editor = nullptr;
    ::el_wget(line, EL_CLIENTDATA, &editor);
    return *static_cast<Editor*>(editor);
  }

  template <unsigned char (Editor::*kFunction)()>
  void Bind(const wchar_t* name, std::initializer_list<const wchar_t*> keys) {
    unsigned char (*function)(EditLine*, wint_t) = [](EditLine* line, wint_t) {
      return (Of(line).*kFunction)();
    };
    ::el_wset(line_, EL_ADDFN, name, name, function);
    BindTo(name, keys);
  }
  void BindTo(const wchar_t* name, std::initializer_list<const wchar_t*> keys) {
    for (const wchar_t* key : keys) ::el_wset(line_, EL_BIND, key, name, nullptr);
  }

  void BindKeys() {
    Bind<&Editor::Enter>(L"rkv-enter", {kEnter});
    Bind<&Editor::BreakLine>(L"rkv-break-line", {kCtrlJ, kAltEnter, kAltCtrlJ});
    Bind<&Editor::Paste>(L"rkv-paste", {kPasteBegins});
    Bind<&Editor::Tab>(L"rkv-tab", {L"^I"});
    Bind<&Editor::Up>(L"rkv-up", {L"\\e[A", L"\\eOA", L"^P"});
    Bind<&Editor::Down>(L"rkv-down", {L"\\e[B", L"\\eOB", L"^N"});
    Bind<&Editor::Search>(L"rkv-search", {L"^R"});
    Bind<&Editor::ClearScreen>(L"rkv-clear-screen", {L"^L"});
    // Key codes of terminals that libedit does not know.
    BindTo(L"ed-move-to-beg", {L"\\e[H", L"\\eOH", L"\\e[1~", L"\\e[7~"});
    BindTo(L"ed-move-to-end", {L"\\e[F", L"\\eOF", L"\\e[4~", L"\\e[8~"});
    BindTo(L"ed-delete-next-char", {L"\\e[3~"});
    BindTo(L"ed-prev-word", {L"\\e[1;5D", L"\\e[1;3D"});
    BindTo(L"em-next-word", {L"\\e[1;5C", L"\\e[1;3C"});
  }

  // The text, and where the cursor is in it.
  std::wstring_view Text() const {
    const LineInfoW* info = ::el_wline(line_);
    return {info->buffer, static_cast<size_t>(info->lastchar - info->buffer)};
  }
  size_t Cursor() const {
    const LineInfoW* info = ::el_wline(line_);
    return static_cast<size_t>(info->cursor - info->buffer);
  }
  void MoveTo(size_t cursor) {
    ::el_cursor(line_, static_cast<int>(cursor) - static_cast<int>(Cursor()));
  }
  unsigned char Insert(std::wstring_view text) {
    const size_t room = kMaxCharacters - std::min(kMaxCharacters, Text().size());
    const std::wstring inserted(text.substr(0, room));
    return inserted.empty() || ::el_winsertstr(line_, inserted.c_str()) != 0 ? CC_ERROR
                                                                             : CC_REFRESH;
  }
  void DeleteBefore(size_t n) { ::el_wdeletestr(line_, static_cast<int>(n)); }
  void Replace(std::wstring_view text) {
    MoveTo(Text().size());
    DeleteBefore(Text().size());
    if (!text.empty()) Insert(text);
  }

  // Returns 1 for a character, 0 at the end of input, -1 for Ctrl-C or an error, as libedit
  // requires.
  int ReadCharacter(wchar_t& c) {
    size_t length = 0;
    while (true) {
      const auto first = input_.empty() ? std::optional<wchar_t>() : FirstCharacter(input_, length);
      if (first.has_value()) {
        c = *first;
        input_.erase(0, length);
        return 1;
      }
      if (const int n = ReadBytes(); n <= 0) return n;
    }
  }

  int ReadBytes() {
    pollfd waiting{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (!pasting_ && ::poll(&waiting, 1, 0) == 0) Draw();
    while (true) {
      pollfd events[] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                         {.fd = Wakeup::fd(), .events = POLLIN, .revents = 0}};
      if (::poll(events, std::size(events), -1) < 0) {
        if (errno != EINTR) return -1;
        continue;
      }
      if (events[1].revents == 0) {
        char bytes[4096];
        const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof(bytes));
        if (n < 0) return -1;
        input_.append(bytes, static_cast<size_t>(n));
        return static_cast<int>(n);
      }
      Wakeup::Clear();
      if (Interrupts::interrupted()) return -1;
      if (ScreenChanges::continued != 0) {
        ScreenChanges::continued = 0;
        ::el_wset(line_, EL_PREP_TERM, 0);  // libedit would assume an unchanged terminal.
        ::el_wset(line_, EL_PREP_TERM, 1);
        Write(kMarkPastes);
        cursor_row_ = 0;
      }
      Draw();
    }
  }

  void Draw() {
    if (!searching_) Draw(kPrompt, Text(), Cursor());
  }

  // Draws the rows around the cursor, as many as the screen has.
  void Draw(std::string_view prompt, std::wstring_view text, size_t cursor) {
    const Size size = TerminalSize();
    const Layout layout = LayOut(prompt, text, cursor, size.columns);
    const size_t first = layout.cursor_row - std::min(layout.cursor_row, size.rows - 1);
    const size_t n = std::min(layout.rows.size() - first, size.rows);
    std::string out = ToFirstRow();
    for (size_t i = 0; i < n; ++i) out += (i > 0 ? "\r\n" : "") + layout.rows[first + i];
    cursor_row_ = layout.cursor_row - first;
    below_ = n - 1 - cursor_row_;
    if (below_ > 0) out += fmt::format("\x1b[{}A", below_);
    out += '\r';
    if (layout.cursor_column > 0) out += fmt::format("\x1b[{}C", layout.cursor_column);
    Write(out);
  }

  // Draws the whole text, which stays on the screen.
  void DrawAll(std::wstring_view text) {
    std::string out = ToFirstRow();
    for (const std::string& row : LayOut(kPrompt, text, 0, TerminalSize().columns).rows) {
      out += row + "\r\n";
    }
    cursor_row_ = below_ = 0;
    Write(out);
  }

  std::string ToFirstRow() const {
    return (cursor_row_ > 0 ? fmt::format("\r\x1b[{}A", cursor_row_) : "\r") + "\x1b[J";
  }

  unsigned char Enter() {
    const std::string text = Narrow(Text());
    if (InOpenBlock(text)) return BreakLine();
    if (Cursor() == Text().size() && EndsInBackslash(text)) {
      DeleteBefore(1);
      return BreakLine();
    }
    sent_ = true;
    return CC_NEWLINE;
  }

  unsigned char BreakLine() { return Insert(L"\n"); }

  // Inserts a pasted text as one edit, including its control characters.
  unsigned char Paste() {
    pasting_ = true;
    std::wstring text;
    wchar_t c = 0;
    while (!text.ends_with(kPasteEnds) && ::el_wgetc(line_, &c) == 1) {
      text += c;
      if (text.size() > kMaxCharacters + kPasteEnds.size()) text.erase(kMaxCharacters, 1);
    }
    pasting_ = false;
    if (text.ends_with(kPasteEnds)) text.resize(text.size() - kPasteEnds.size());
    std::wstring lines;
    for (size_t i = 0; i < text.size(); ++i) {
      // CRLF, LF and CR, with the exchanged codes of kEnter and kCtrlJ.
      const bool crlf = text[i] == '\n' && i + 1 < text.size() && text[i + 1] == '\r';
      if (crlf) ++i;
      if (text[i] == '\0') continue;
      lines += text[i] == '\r' ? L'\n' : text[i];
    }
    return lines.empty() ? CC_NORM : Insert(lines);
  }

  unsigned char Tab() {
    const std::string before = Narrow(Text().substr(0, Cursor()));
    const std::optional<Completion> completion = complete_(before);
    if (!completion.has_value()) return Insert(L"\t");
    if (completion->candidates.empty()) return CC_ERROR;
    const std::string typed = before.substr(before.size() - completion->n_replaced);
    const std::string common = CommonBeginning(completion->candidates);
    const bool longer = common.size() > typed.size() && common.starts_with(typed);
    if (completion->candidates.size() > 1 && !longer) return List(completion->candidates);
    DeleteBefore(Widen(typed).size());
    return Insert(Widen(common));
  }

  // Shows the candidates below the text.
  unsigned char List(const std::vector<std::string>& candidates) {
    std::string out(below_ + 1, '\n');
    for (size_t i = 0; i < std::min(candidates.size(), kMaxListed); ++i) {
      const std::string_view candidate = candidates[i];
      const size_t slash = candidate.rfind('/', candidate.size() - 2);
      const bool path = candidate.size() > 1 && slash != std::string_view::npos && slash > 0;
      out += (i > 0 ? "  " : "") + Printable(path ? candidate.substr(slash + 1) : candidate);
    }
    if (candidates.size() > kMaxListed) {
      out += fmt::format("  and {} more", candidates.size() - kMaxListed);
    }
    Write(out + "\r\n");
    cursor_row_ = below_ = 0;
    return CC_REFRESH;
  }

  // Moves a line up in a text of several lines, else to an earlier message.
  unsigned char Up() {
    const std::wstring_view text = Text();
    const size_t cursor = Cursor();
    const size_t begin = LineBegin(text, cursor);
    if (begin > 0) {
      const size_t above = LineBegin(text, begin - 1);
      MoveTo(std::min(above + (cursor - begin), begin - 1));
      return CC_REFRESH;
    }
    if (recalled_ == 0) return CC_ERROR;
    if (recalled_ == history_.entries().size()) unsent_ = text;
    Replace(Widen(history_.entries()[--recalled_]));
    return CC_REFRESH;
  }

  unsigned char Down() {
    const std::wstring_view text = Text();
    const size_t cursor = Cursor();
    const size_t end = text.find(L'\n', cursor);
    if (end != std::wstring_view::npos) {
      const size_t column = cursor - LineBegin(text, cursor);
      MoveTo(std::min(end + 1 + column, std::min(text.find(L'\n', end + 1), text.size())));
      return CC_REFRESH;
    }
    if (recalled_ == history_.entries().size()) return CC_ERROR;
    ++recalled_;
    const bool last = recalled_ == history_.entries().size();
    Replace(last ? unsent_ : Widen(history_.entries()[recalled_]));
    return CC_REFRESH;
  }

  static size_t LineBegin(std::wstring_view text, size_t cursor) {
    const size_t before = cursor == 0 ? std::wstring_view::npos : text.rfind(L'\n', cursor - 1);
    return before == std::wstring_view::npos ? 0 : before + 1;
  }

  // Finds the latest entry that contains the typed text; Ctrl-R finds earlier ones.
  unsigned char Search() {
    constexpr wchar_t kCtrlG = 0x07;
    constexpr wchar_t kCtrlR = 0x12;
    constexpr wchar_t kEscape = 0x1B;
    constexpr wchar_t kBackspace = 0x7F;
    const auto& entries = history_.entries();
    const std::wstring unchanged(Text());
    std::wstring pattern;
    size_t found = entries.size();  // none
    const auto look = [&](size_t end) {
      for (size_t i = end; i-- > 0;) {
        if (entries[i].find(Narrow(pattern)) == std::string::npos) continue;
        found = i;
        return;
      }
    };
    searching_ = true;
    wchar_t c = 0;
    while (true) {
      const std::wstring match = found < entries.size() ? Widen(entries[found]) : L"";
      Draw("(search) ", pattern + L": " + match, pattern.size());
      if (::el_wgetc(line_, &c) != 1) break;
      if (c == kCtrlR) {
        look(found);
      } else if (c == kBackspace || c == '\b') {
        if (!pattern.empty()) pattern.pop_back();
        found = entries.size();
        if (!pattern.empty()) look(entries.size());
      } else if (c >= 0x20) {
        pattern += c;
        const size_t before = std::min(found + 1, entries.size());
        found = entries.size();
        look(before);
      } else {
        break;
      }
    }
    searching_ = false;
    if (c == kCtrlG || found == entries.size()) {
      Replace(unchanged);
      return CC_REFRESH;
    }
    Replace(Widen(entries[found]));
    recalled_ = found;
    unsent_ = unchanged;
    // Enter and keys that move apply to the found entry.
    const wchar_t key[] = {c, 0};
    if (c != kEscape) ::el_wpush(line_, key);
    return CC_REFRESH;
  }

  unsigned char ClearScreen() {
    Write("\x1b[H\x1b[2J");
    cursor_row_ = below_ = 0;
    return CC_REFRESH;
  }

  Complete complete_;
  History history_;
  FILE* nowhere_;
  EditLine* line_;
  std::string input_;  // read, not yet processed
  bool sent_ = false;
  bool pasting_ = false;
  bool searching_ = false;
  size_t recalled_ = 0;    // index of the edited history entry; past the last: a new one
  std::wstring unsent_;    // the new entry, while another one is edited
  size_t cursor_row_ = 0;  // of the rows on the screen
  size_t below_ = 0;       // rows below it
};

LineReader::LineReader(Complete complete, const std::string& history_path) {
  UseUtf8();
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDOUT_FILENO) != 1) return;
  if (IsDumb(std::getenv("TERM"))) {
    prompts_ = true;
  } else {
    editor_ = std::make_unique<Editor>(std::move(complete), history_path);
  }
}
LineReader::~LineReader() = default;

std::optional<std::string> LineReader::NextLines() {
  std::string text;
  std::string line;
  bool more = true;
  while (more) {
    if (prompts_) Write(text.empty() ? kPrompt : "  ");
    if (!std::getline(std::cin, line)) break;
    if (std::exchange(first_line_, false) && line.starts_with(kByteOrderMark)) {
      line.erase(0, kByteOrderMark.size());
    }
    if (line.ends_with('\r')) line.pop_back();
    text += line;
    more = InOpenBlock(text) || EndsInBackslash(text);
    if (!more) return text;
    if (!InOpenBlock(text)) text.pop_back();
    text += '\n';
  }
  if (text.empty()) return std::nullopt;
  return text;
}

std::optional<TypedMessage> LineReader::Next() {
  std::optional<std::string> text = editor_ == nullptr ? NextLines() : editor_->Next();
  if (Interrupts::interrupted()) {
    editor_.reset();  // Gives the terminal back as it was.
    std::exit(kExitInterrupted);
  }
  if (!text.has_value()) return std::nullopt;
  return Unquote(std::move(*text));
}

}  // namespace rkv::app
