"""Writes pages and questions that training never saw, as `rkv eval --data` reads them.

  heldout.py DIR [--conversations 48] [--seeds 3] [--pages 1] [--questions 10] [--largest 400] [--families form,table,scene]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from conversations import HELD_OUT_SEED, make_conversation
from pages import FAMILIES, draw


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--conversations", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3, help="that conversations are drawn from, one after the other")
    parser.add_argument("--pages", type=int, default=1)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--largest", type=int, default=400, help="visual tokens of a picture")
    parser.add_argument("--families", default=",".join(FAMILIES))
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    with open(args.directory / "heldout.jsonl", "w", encoding="utf-8") as out:
        for number in range(args.conversations):
            seed = 1 + number % args.seeds
            rng = np.random.default_rng([HELD_OUT_SEED, args.pages, seed, number])
            conversation = make_conversation(rng, args.pages, args.questions, args.largest, args.families.split(","))
            images = []
            for i, page in enumerate(conversation.pages, 1):
                images.append(f"{number:03}-{i}.png")
                Image.fromarray(draw(page, rng)).quantize(64).save(args.directory / images[-1], optimize=True)
            turns = [{"family": family, "question": question, "answer": answer}
                     for family, question, answer in conversation.turns]
            out.write(json.dumps({"seed": seed, "images": images, "turns": turns}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
