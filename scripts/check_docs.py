#!/usr/bin/env python3
"""Checks the English of the documentation: scripts/check_docs.py [FILE.md ...]

Two rules, which a machine can check:
  - a sentence has at most 25 words; an inline code span counts as one;
  - no clause that begins with "what" or "who" stands in place of a noun. Questions may.

Code, tables, headings, quotations, HTML and the targets of links are passed over. That links lead
to files is checked by tests/docs_test.cc. The exit code is 0 if all is well, 1 if a sentence breaks
a rule, 2 for wrong usage.
"""

import re
import sys
from pathlib import Path

MAX_WORDS = 25
DEFAULTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/decisions/*.md",
            "bench/README.md", "models/reference/README.md")

ABBREVIATIONS = ("e.g.", "i.e.", "cf.", "vs.", "al.", "...")

# Words after which "who" stands for a noun. After a noun it is an ordinary relative clause.
BEFORE_WHO = (r"and|or|of|than|by|from|to|for|with|on|is|are|decides?|says?|tells?|shows?|knows?|"
              r"asks?|chooses?|solves?")
HEADLESS = re.compile(rf"\bwhat\b(?:\s+[\w'-]+)?|\bwhoever\b|\b(?:{BEFORE_WHO})\s+who\b", re.I)
OPENING = re.compile(r"(?:who|whatever)\b(?:\s+[\w'-]+)?", re.I)


def blocks(text):
  """Yields (number of the first line, lines) of each paragraph and list item of prose."""
  current, first, fence, comment = [], 0, False, False
  for number, line in enumerate(text.splitlines() + [""], 1):
    stripped = line.strip()
    if stripped.startswith("```"):
      fence = not fence
      stripped = ""
    elif fence:
      continue
    elif comment or stripped.startswith("<!--"):
      comment = "-->" not in stripped
      stripped = ""
    is_item = re.match(r"([-*+]|\d+[.)])\s", stripped) is not None
    is_prose = stripped != "" and stripped[0] not in "|#"
    if current and (is_item or not is_prose):
      yield first, current
      current = []
    if is_prose:
      if not current:
        first = number
      current.append(re.sub(r"^([-*+]|\d+[.)])\s+", "", stripped) if is_item else stripped)


def plain(text):
  """`text` without markup. Every line break stays, so that lines can be counted."""
  def breaks(word):
    return lambda match: word + "\n" * match.group().count("\n")

  text = re.sub(r"(`+)(?:(?!\1)[^`]|(?!\1)`)+\1", breaks("Code"), text)
  text = re.sub(r"!\[[^\]]*\]\([^)]*\)", breaks(""), text)
  text = re.sub(r"\[([^\]]*)\]\([^)]*\)", lambda match: match.group(1), text)
  text = re.sub(r"</?\w[^>]*>|https?://\S+", breaks(""), text)
  text = re.sub(r'"[^"]*[.?!]"(?=\s+[A-Z]|\s*$)', breaks("Quotation."), text)
  text = re.sub(r'"[^"]*"', breaks("Quotation"), text)
  return re.sub(r"\*+", "", text)


def sentences(text):
  """Yields (offset, sentence) of plain text."""
  start = 0
  for match in re.finditer(r"[.?!]['\")]*(?=\s|$)", text):
    if text[:match.end()].endswith(ABBREVIATIONS):
      continue
    yield start, text[start:match.end()]
    start = match.end()
  if text[start:].strip():
    yield start, text[start:]


def complaints(sentence):
  """Yields (offset in the sentence, message) for each rule that it breaks."""
  begin = len(sentence) - len(sentence.lstrip())
  n_words = sum(any(c.isalnum() for c in word) for word in sentence.split())
  if n_words > MAX_WORDS:
    yield begin, f"sentence of {n_words} words (at most {MAX_WORDS})"
  if sentence.rstrip("\"') ").endswith("?"):
    return
  opening = OPENING.match(sentence, begin)
  for clause in ([opening] if opening else []) + list(HEADLESS.finditer(sentence)):
    yield clause.start(), f"clause '{' '.join(clause.group().split())} ...' as a noun"


def check(path):
  """The complaints about one file, a line each."""
  found = []
  for first_line, lines in blocks(path.read_text(encoding="utf-8")):
    text = plain("\n".join(lines))
    for start, sentence in sentences(text):
      for offset, message in complaints(sentence):
        line = first_line + text[:start + offset].count("\n")
        found.append(f"{path}:{line}: {message}")
  return found


def main(arguments):
  if any(argument.startswith("-") for argument in arguments):
    print(__doc__.strip(), file=sys.stderr)
    return 2
  paths = [Path(argument) for argument in arguments]
  if not paths:
    root = Path(__file__).resolve().parent.parent
    paths = [path for pattern in DEFAULTS for path in sorted(root.glob(pattern))]
    paths = [path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
             for path in paths]
  missing = [str(path) for path in paths if not path.is_file()]
  if missing:
    print(f"no such file: {', '.join(missing)}", file=sys.stderr)
    return 2
  found = [line for path in paths for line in check(path)]
  print("\n".join(found), end="\n" if found else "")
  return 1 if found else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
