"""Seeded conversations about pages, as text and as the token sequences that the model is trained on."""

from dataclasses import dataclass

import numpy as np

import vocabulary as v
from pages import FAMILIES, SLOTS, make_page

# (width, height) in cells, from 64 to 400 visual tokens, and how often.
SIZES = {(8, 8): 4, (12, 8): 4, (10, 10): 2, (14, 8): 2, (16, 10): 1.5, (12, 14): 1, (20, 12): 0.7, (20, 20): 0.2}

HELD_OUT_SEED = 9000  # of pages that training, which counts from 1, never sees


@dataclass
class Conversation:
    pages: list
    first: str  # what the user says before the first question, with "<picture>" for each page
    turns: list  # (family, question, answer)


def pick_size(rng, largest=400):
    sizes = {size: weight for size, weight in SIZES.items() if size[0] * size[1] <= largest}
    weights = np.array(list(sizes.values()))
    return list(sizes)[rng.choice(len(sizes), p=weights / weights.sum())]


def make_conversation(rng, n_pages=1, n_questions=10, largest=400, families=FAMILIES, missing=0.05):
    """`missing`: the share of questions for what is on no page."""
    pages = []
    for _ in range(n_pages):
        family = families[rng.integers(len(families))]
        width, height = pick_size(rng, largest)
        pages.append(make_page(rng, family, width, height))
    by_family = {}  # every family is asked about as often as it has pages
    on = {}
    for number, page in enumerate(pages, 1):
        for question in page.facts:
            on.setdefault(question, []).append(number)
            by_family.setdefault(number, []).append(question)
    turns, asked = [], set()
    numbers = list(by_family)
    for _ in range(n_questions):
        if rng.random() < missing:
            question = _missing(rng, pages)
            if question[0] != "none" and question not in on:
                turns.append((question[0], _ask(rng, question, None), v.NONE))
                continue
        number = numbers[rng.integers(len(numbers))]
        open_questions = [q for q in by_family[number] if (number, q) not in asked] or by_family[number]
        question = open_questions[rng.integers(len(open_questions))]
        asked.add((number, question))
        named = len(on[question]) > 1 or (n_pages > 1 and rng.random() < 0.4)
        turns.append((question[0], _ask(rng, question, number if named else None), pages[number - 1].facts[question]))
    labelled = rng.random() < (0.6 if n_pages > 1 else 0.2)  # otherwise pages are to be counted
    first = " ".join((v.PAGE_LABEL.format(i) if labelled else "") + "<picture>" for i in range(1, n_pages + 1))
    return Conversation(pages, first, turns)


def _missing(rng, pages):
    page = pages[rng.integers(len(pages))]
    kind = {"form": "form", "scene": "colour", "receipt": "receipt"}.get(page.family, "none")
    words = {"form": v.KEYS, "colour": v.GLYPHS, "receipt": v.THINGS}.get(kind, [""])
    return kind, (words[rng.integers(len(words))],)


def _ask(rng, question, number):
    templates = v.QUESTIONS[question[0]]
    text = templates[rng.integers(len(templates))].format(*question[1])
    if number is None:
        return text
    prefix = v.ON_PAGE[rng.integers(len(v.ON_PAGE))].format(number)
    return prefix + text


USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


class Encoder:
    """Conversations -> arrays: ids [n] (-1 for visual tokens), positions [3, n], answers [n] (whether a token is
    to be predicted), kinds [n] (which question an answer's first token belongs to, or -1), slots [cells, n_slots]."""

    KINDS = list(v.QUESTIONS)

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.blank = tokenizer.ids["<|image_pad|>"]
        self.words = {"": -1} | {word: tokenizer.word(word) for word in v.CONTENT}

    def slots(self, page):
        said = np.array([self.words[word] for word in page.slots.reshape(-1)], np.int64).reshape(-1, len(SLOTS))
        said[said[:, 0] < 0, 0] = self.blank
        return said

    def encode(self, conversation, apart=False):
        """`apart`: the pictures are a turn of their own, answered by "ok"."""
        ids, positions, answers, kinds, at = [], [], [], [], 0

        def text(part, answer=False, kind=-1):
            nonlocal at
            new = self.tokenizer.encode(part)
            ids.extend(new)
            positions.extend((at + i,) * 3 for i in range(len(new)))
            answers.extend([answer] * len(new))
            kinds.extend([kind] + [-1] * (len(new) - 1))
            at += len(new)

        before = USER
        for page, label in zip(conversation.pages, conversation.first.split("<picture>")):
            text(before + label + "<|vision_start|>")
            before = ""
            rows, columns = np.divmod(np.arange(page.width * page.height), page.width)
            ids.extend([-1] * len(rows))
            positions.extend(zip([at] * len(rows), at + rows, at + columns))
            answers.extend([False] * len(rows))
            kinds.extend([-1] * len(rows))
            at += max(page.width, page.height)
            text("<|vision_end|>")
        if apart:
            text(ASSISTANT + "ok" + END + "\n" + USER)
        for i, (family, question, answer) in enumerate(conversation.turns):
            text(("\n" + USER if i else "") + question + ASSISTANT)
            text(answer + END, answer=True, kind=self.KINDS.index(family))
        return (np.array(ids), np.array(positions).T, np.array(answers), np.array(kinds),
                np.concatenate([self.slots(page) for page in conversation.pages]))
