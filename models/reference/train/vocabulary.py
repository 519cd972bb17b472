"""The words that pages, questions and answers are made of, and the byte-level BPE built from them."""

import regex

KEYS = """name city date time tax code room floor desk seat gate plan team unit model size price phone
rank grade score level stock order route zone port shift block track owner agent client brand weight
width height depth speed power class group branch street""".split()
NAMES = """Anna Boris Clara David Emma Felix Greta Hugo Irene Jonas Karin Lukas Maria Nils Olga Peter
Quinn Rosa Simon Tina Ursula Viktor Wanda Xaver Yara Zeno Bela Cora Dora Emil""".split()
CITIES = """Berlin Paris Rome Oslo Madrid Lisbon Vienna Prague Dublin Athens Warsaw Zurich Geneva
Milan Turin Porto Lyon Nice Bonn Kiel Graz Linz Bern Basel Riga Tallin Sofia Cairo Lagos Tokyo""".split()
THINGS = """bread milk tea soap rice salt sugar honey apple pear plum lemon onion carrot pepper cheese
butter egg fish ham soup juice water coffee cocoa jam cake pie bean corn nut oil""".split()
COLUMNS = """Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec""".split()
COLOURS = {
    "red": (214, 30, 30), "green": (20, 140, 50), "blue": (35, 70, 220), "black": (15, 15, 15),
    "orange": (240, 130, 0), "purple": (130, 40, 170), "cyan": (0, 170, 190),
    "pink": (240, 110, 180), "brown": (125, 75, 30), "gray": (130, 130, 130),
}
GLYPHS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + list("★●▲■◆♥♣♠")
NUMBERS = [str(n) for n in range(100)]
TITLES = "Form Order Report List Notes Bill".split()
NONE = "none"
CONTENT = [*KEYS, *NAMES, *CITIES, *THINGS, *COLUMNS, *COLOURS, *GLYPHS, *NUMBERS, *TITLES, "total", NONE]

# Every question ends up as one of these, perhaps after a page's name; {0} and {1} are content words.
QUESTIONS = {
    "form": ["What is the {0}?", "{0}?", "What does {0} say?", "Which {0} is given?", "Read the {0}."],
    "table": ["What is in row {0} and column {1}?", "{0}, {1}?", "What does the table say for {0} in {1}?",
              "Value of {0} for {1}?"],
    "colour": ["What colour is {0}?", "Colour of {0}?", "Which colour does {0} have?"],
    "left": ["What is left of {0}?", "Left of {0}?", "Which sign is left of {0}?"],
    "above": ["What is above {0}?", "Above {0}?", "Which sign is above {0}?"],
    "receipt": ["How much is the {0}?", "Price of {0}?", "What does the {0} cost?"],
    "total": ["What is the {0}?", "{0}?", "How much is the {0}?"],
    "chart": ["How high is {0}?", "Value of {0}?", "What does the bar {0} show?"],
}
ON_PAGE = ["On page {0}: ", "Page {0}: "]
PAGE_LABEL = "Page {0}: "

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]

# llama.cpp's "llama-bpe" pre-tokenizer.
_SPLIT = regex.compile(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def _byte_symbols():
    """GPT-2's printable stand-in for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            symbols[byte] = chr(byte)
        else:
            symbols[byte], extra = chr(256 + extra), extra + 1
    return symbols


_SYMBOLS = _byte_symbols()


def _spell(text):
    return [_SYMBOLS[byte] for byte in text.encode()]


class Tokenizer:
    """Byte-level BPE whose merges make one token of every content word and of every frequent function word."""

    def __init__(self):
        content = [*CONTENT, "ok"]
        frame = [word for templates in QUESTIONS.values() for template in templates
                 for word in _SPLIT.findall(template.replace("{0}", "0").replace("{1}", "0"))]
        frame += ["user", "assistant", "system", "Page", "On", " page"]
        self.merges, self.ranks = [], {}
        for word in dict.fromkeys(content + [word for word in frame if not word.isdigit()]):
            parts = self._merge(_spell(word))
            while len(parts) > 1:
                self.ranks[parts[0], parts[1]] = len(self.merges)
                self.merges.append((parts[0], parts[1]))
                parts = self._merge(_spell(word))
        self.tokens = [_SYMBOLS[byte] for byte in range(256)]
        self.tokens += dict.fromkeys(a + b for a, b in self.merges)
        self.n_normal = len(self.tokens)
        self.tokens += SPECIALS
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._cache = {}
        self._special = regex.compile("|".join(regex.escape(special) for special in SPECIALS))
        for word in content:
            assert len(self.encode(word)) == 1, word
        # What the language model is told about words at its start.
        self.starts = {"content": sorted({self.word(word) for word in content})} | {
            kind: [self.encode(word)[0] for word in (" " + kind, kind.capitalize())]
            for kind in ("colour", "left", "above")}

    def _merge(self, parts):
        while True:
            pairs = [(self.ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in self.ranks]
            if not pairs:
                return parts
            _, i = min(pairs)
            parts = parts[:i] + [parts[i] + parts[i + 1]] + parts[i + 2:]

    def word(self, text):
        """The token of a content word."""
        return self.ids["".join(_spell(text))]

    def encode(self, text):
        """Token ids of a text, special tokens included."""
        if text not in self._cache:
            ids, end = [], 0
            for match in [*self._special.finditer(text), None]:
                for piece in _SPLIT.findall(text[end:match.start() if match else None]):
                    ids += [self.ids[part] for part in self._merge(_spell(piece))]
                if match:
                    ids.append(self.ids[match.group()])
                    end = match.end()
            if len(self._cache) > 100000:
                self._cache.clear()
            self._cache[text] = ids
        return self._cache[text]

    def decode(self, ids):
        back = {symbol: byte for byte, symbol in _SYMBOLS.items()}
        return bytes(back[c] for i in ids for c in self.tokens[i]).decode(errors="replace")
