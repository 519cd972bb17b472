"""Asks a trained model in PyTorch about new pages: exact match per kind of question.

  ask.py RUN [--conversations 64] [--pages 1] [--largest 400] [--ideal]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from conversations import HELD_OUT_SEED, Encoder, make_conversation
from model import Config, Model, load
from pages import draw
from vocabulary import Tokenizer


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--pages", type=int, default=1)
    parser.add_argument("--largest", type=int, default=400, help="visual tokens of a picture")
    parser.add_argument("--ideal", action="store_true", help="visual tokens as they should be, not those of the picture")
    args = parser.parse_args()
    tokenizer = Tokenizer()
    encoder = Encoder(tokenizer)
    model = Model(Config(n_vocab=len(tokenizer.tokens)), tokenizer.starts)
    load(model, args.run)
    right = {}
    for number in range(args.conversations):
        rng = np.random.default_rng([HELD_OUT_SEED, number])
        conversation = make_conversation(rng, args.pages, 20, args.largest)
        ids, positions, answers, kinds, slots = (torch.from_numpy(part) for part in
                                                 encoder.encode(conversation, apart=number % 2 == 1))
        visual = model.ideal(slots) if args.ideal else torch.cat(
            [model.vision(torch.from_numpy(draw(page, rng))[None])[0] for page in conversation.pages])
        x = model.language.table[ids.clamp(min=0)]
        x[ids < 0] = visual
        logits = model.language(x[None], positions[None])[0] @ model.language.table.T
        best = logits[:-1].argmax(-1) == ids[1:]
        for at in (kinds >= 0).nonzero()[:, 0].tolist():
            end = at
            while answers[end] and ids[end] != tokenizer.ids["<|im_end|>"]:
                end += 1
            right.setdefault(encoder.KINDS[kinds[at]], []).append(bool(best[at - 1:end].all()))
    for kind, results in sorted(right.items()):
        print(f"{kind:10} {np.mean(results):.3f} of {len(results)}")


if __name__ == "__main__":
    main()
