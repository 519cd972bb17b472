"""Seeded pages: what stands where, what can be asked about it, and the picture of it.

A page is a grid of cells of 16 x 16 pixels, one visual token each. Text is monospaced, two characters a cell.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import vocabulary as v

CELL = 16
# What a visual token is taught to say, as token ids: the word that stands in its cell, the heads of its row and
# column (of a form's value: its key), its colour, and the signs left of and above it.
SLOTS = ["self", "row", "column", "colour", "left", "above"]
LETTERS = " " + "".join(sorted(set("".join(v.CONTENT)))) + ":"
FAMILIES = ["form", "table", "scene", "receipt", "chart"]
FONTS = {"DejaVuSansMono.ttf": 13, "DejaVuSansMono-Bold.ttf": 13, "LiberationMono-Regular.ttf": 13,
         "LiberationMono-Bold.ttf": 13}
SIGN_FONTS = ["DejaVuSans-Bold.ttf"]


@dataclass
class Page:
    family: str
    width: int  # cells
    height: int
    texts: list = field(default_factory=list)  # (y, x, text, style) in cells, style one of plain, bold or a colour
    lines: list = field(default_factory=list)  # (row, column, row, column) in cells
    bars: list = field(default_factory=list)  # (row, column, row, column) in cells
    facts: dict = field(default_factory=dict)  # (question kind, arguments) -> answer
    slots: np.ndarray = None  # [height, width, len(SLOTS)] words or ""
    letters: np.ndarray = None  # [height, 2 width] what stands in each half of a cell, as indices of LETTERS

    def put(self, y, x, text, style="plain", after="", **said):
        """Writes `text`, followed by `after`, whose cells say `said` (slot name -> word)."""
        self.texts.append((y, x, text + after, style))
        shown = text * 2 if style in v.COLOURS else text + after
        for i, letter in enumerate(shown[:2 * (self.width - x)]):
            self.letters[y, 2 * x + i] = LETTERS.index(letter)
        for cell in self.slots[y, x:x + cells(text)]:
            cell[0] = text
            for name, word in said.items():
                cell[SLOTS.index(name)] = word


def cells(text):
    return (len(text) + 1) // 2


def make_page(rng, family, width, height):
    page = Page(family, width, height, slots=np.full((height, width, len(SLOTS)), "", dtype=object),
                letters=np.zeros((height, 2 * width), np.int64))
    {"form": _form, "table": _table, "scene": _scene, "receipt": _receipt, "chart": _chart}[family](rng, page)
    return page


def _pick(rng, words, n):
    return [words[i] for i in rng.permutation(len(words))[:n]]


def _value(rng):
    words = [v.NUMBERS[10:], v.NUMBERS[10:], v.NAMES, v.CITIES][rng.integers(4)]
    return words[rng.integers(len(words))]


def _title(rng, page):
    """A first line on some pages; returns the first free row."""
    if page.height < 8 or rng.random() < 0.6:
        return 0
    page.put(0, int(rng.integers(0, 3)), v.TITLES[rng.integers(len(v.TITLES))], "bold")
    return 1


def _form(rng, page):
    top = _title(rng, page)
    n_blocks = max(1, page.width // 8)
    places = [(row, block * 8) for block in range(n_blocks) for row in range(top, page.height)]
    share = rng.uniform(0.5, 1.0)
    places = [place for place in places if rng.random() < share]
    tab = rng.random() < 0.5
    for (row, left), key in zip(places, _pick(rng, v.KEYS, len(places))):
        value = _value(rng)
        page.put(row, left, key, "bold" if tab else "plain", after=":")
        page.put(row, left + 4 if tab else left + cells(key + ":") + 1, value, row=key)
        page.facts["form", (key,)] = value


def _table(rng, page):
    top = _title(rng, page)
    row_words = [v.NAMES, v.THINGS][rng.integers(2)]
    head_words = [v.COLUMNS, v.KEYS][rng.integers(2)]
    step = 3 if head_words is v.COLUMNS else 4
    n_columns = max(1, (page.width - 4) // step)
    n_rows = page.height - top - 1
    heads = _pick(rng, head_words, n_columns)
    for i, head in enumerate(heads):
        page.put(top, 4 + i * step, head, "bold")
    if rng.random() < 0.5:
        page.lines.append((top + 1, 0, top + 1, page.width))
    for r, name in enumerate(_pick(rng, row_words, n_rows)):
        row = top + 1 + r
        if rng.random() < 0.1:
            continue
        page.put(row, 0, name, "bold" if rng.random() < 0.3 else "plain")
        for i, head in enumerate(heads):
            if rng.random() < 0.07:
                continue
            value = v.NUMBERS[rng.integers(10, 100)] if step == 3 or rng.random() < 0.5 else _value(rng)
            page.put(row, 4 + i * step, value, row=name, column=head)
            page.facts["table", (name, head)] = value


def _scene(rng, page):
    step = 2
    rows, columns = page.height // step, page.width // step
    n = int(rng.integers(max(3, rows * columns // 4), min(len(v.GLYPHS), rows * columns * 3 // 4) + 1))
    places = sorted(divmod(int(i), columns) for i in rng.permutation(rows * columns)[:n])
    dy, dx = int(rng.integers(0, step)), int(rng.integers(0, step))
    at = dict(zip(places, _pick(rng, v.GLYPHS, n)))
    colours = list(v.COLOURS)
    for (r, c), sign in at.items():
        colour = colours[rng.integers(len(colours))]
        left = next((at[r, x] for x in range(c - 1, -1, -1) if (r, x) in at), v.NONE)
        above = next((at[y, c] for y in range(r - 1, -1, -1) if (y, c) in at), v.NONE)
        page.put(r * step + dy, c * step + dx, sign, colour, colour=colour, left=left, above=above)
        page.facts["colour", (sign,)] = colour
        page.facts["left", (sign,)] = left
        page.facts["above", (sign,)] = above


def _receipt(rng, page):
    top = _title(rng, page)
    n = int(rng.integers(2, page.height - top))
    prices = rng.multinomial(int(rng.integers(n + 9, 100)) - n, rng.dirichlet([2.0] * n)) + 1
    right = min(page.width - 1, int(rng.integers(4, 9)))
    for i, (thing, price) in enumerate(zip(_pick(rng, v.THINGS, n), prices)):
        page.put(top + i, 0, thing)
        page.put(top + i, right, v.NUMBERS[price], row=thing)
        page.facts["receipt", (thing,)] = v.NUMBERS[price]
    row = int(rng.integers(top + n, page.height))
    total = v.NUMBERS[prices.sum()]
    page.lines.append((row, 0, row, page.width))
    page.put(row, 0, "total", "bold")
    page.put(row, right, total, "bold", row="total")
    page.facts["total", ("total",)] = total


def _chart(rng, page):
    n = page.width // 3
    values = rng.integers(10, 100, n)
    base = page.height - 1
    for i, (label, value) in enumerate(zip(_pick(rng, v.COLUMNS, n), values)):
        height = max(1, round(value / 100 * (base - 1)))
        page.put(base, i * 3, label)
        page.put(base - height - 1, i * 3, v.NUMBERS[value], column=label)
        page.bars.append((base - height, i * 3, base, i * 3 + 1))
        page.facts["chart", (label,)] = v.NUMBERS[value]


@functools.cache
def _font(name, size):
    for folder in Path("/usr/share/fonts/truetype").iterdir():
        if (folder / name).exists():
            return ImageFont.truetype(str(folder / name), size)
    raise FileNotFoundError(f"{name}: install fonts-dejavu-core and fonts-liberation")


def draw(page, rng):
    """The picture, [16 height, 16 width, 3] bytes."""
    paper = tuple(int(x) for x in 255 - rng.integers(0, 26, 3))
    ink = tuple(int(x) for x in rng.integers(0, 70, 3))
    image = Image.new("RGB", (page.width * CELL, page.height * CELL), paper)
    pen = ImageDraw.Draw(image)
    names = list(FONTS)
    family = 2 * int(rng.integers(len(names) // 2))
    bar = list(v.COLOURS.values())[rng.integers(len(v.COLOURS))]
    for top, left, bottom, right in page.bars:
        pen.rectangle((left * CELL, top * CELL, right * CELL + 7, bottom * CELL - 1), fill=bar)
    for top, left, bottom, right in page.lines:
        pen.line((left * CELL, top * CELL, right * CELL, bottom * CELL), fill=ink)
    dx, dy = (int(x) for x in rng.integers(-1, 2, 2))
    for row, column, text, style in page.texts:
        at = (column * CELL + dx, row * CELL + 13 + dy)
        if style in v.COLOURS:
            at = (column * CELL + 8 + int(rng.integers(-1, 2)), row * CELL + 14 + int(rng.integers(-1, 2)))
            colour = tuple(int(np.clip(x + rng.integers(-12, 13), 0, 255)) for x in v.COLOURS[style])
            pen.text(at, text, font=_font(SIGN_FONTS[0], 16), fill=colour, anchor="ms")
        else:
            name = names[family + (style == "bold")]
            pen.text(at, text, font=_font(name, FONTS[name]), fill=ink, anchor="ls")
    return np.asarray(image)
