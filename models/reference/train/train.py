"""Trains the reference model in three stages, each resumable; see ../README.md for the recipe.

  train.py vision   --out DIR --minutes M   the pictures alone: every visual token says what its cell shows
  train.py language --out DIR --minutes M   the conversations alone, on visual tokens as they should be
  train.py joint    --out DIR --minutes M   both together, on real pictures

`vision` and `language` do not depend on each other. DIR/STAGE.pt is the newest state; a second call goes on from it,
and `joint` starts from what the other two left. A GPU is used where there is one.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import export
import pages
import vocabulary
from conversations import Encoder, make_conversation, pick_size
from model import Config, Model, load

TOKENIZER = vocabulary.Tokenizer()
ENCODER = Encoder(TOKENIZER)
VISION_SHARES = [0.2, 0.45, 0.2, 0.05, 0.1]  # of FAMILIES; columns of tables are learnt last


def vision_batch(seed, n_cells, largest):
    """Pictures of one size with what each cell says."""
    rng = np.random.default_rng(seed)
    width, height = pick_size(rng, largest)
    made = [pages.make_page(rng, rng.choice(pages.FAMILIES, p=VISION_SHARES), width, height)
            for _ in range(max(2, n_cells // (width * height)))]
    return {"pictures": torch.from_numpy(np.stack([pages.draw(page, rng) for page in made])),
            "slots": torch.from_numpy(np.stack([ENCODER.slots(page) for page in made])),
            "letters": torch.from_numpy(np.stack([page.letters for page in made]))}


def conversation_batch(seed, n_tokens, largest, most_pages, drawn):
    """Conversations, padded on the right, up to `n_tokens` in all; with `drawn`, their pictures."""
    rng = np.random.default_rng(seed)
    n_pages = 1 if rng.random() < 0.4 else int(rng.integers(1, most_pages + 1))
    made, total = [], 0
    while total < n_tokens:
        conversation = make_conversation(rng, n_pages, int(rng.integers(8, 21)), largest)
        made.append((conversation, ENCODER.encode(conversation, apart=rng.random() < 0.5)))
        total += len(made[-1][1][0])
    longest = max(len(encoded[0]) for _, encoded in made)

    def pad(which, value):
        return torch.from_numpy(np.stack([np.pad(e[which], [(0, 0)] * (e[which].ndim - 1) +
                                                 [(0, longest - e[which].shape[-1])], constant_values=value)
                                          for _, e in made]))

    batch = {"ids": pad(0, ENCODER.blank), "positions": pad(1, 0), "answers": pad(2, False), "kinds": pad(3, -1),
             "slots": torch.from_numpy(np.concatenate([e[4] for _, e in made]))}
    if drawn:  # by size, with where each picture's tokens belong
        by_size, first = {}, 0
        for conversation, _ in made:
            for page in conversation.pages:
                by_size.setdefault((page.height, page.width), []).append((first, pages.draw(page, rng)))
                first += page.width * page.height
        batch["pictures"] = [(torch.tensor([at for at, _ in group]), torch.from_numpy(np.stack([p for _, p in group])))
                             for group in by_size.values()]
    return batch


def vision_loss(model, batch):
    visual, logits = model.vision(batch["pictures"], with_letters=True)
    letters = batch["letters"]  # [n, height, 2 width]; both patches of a half cell see the letter
    letters = letters.view(*letters.shape[:2], -1, 1, 2).expand(-1, -1, -1, 2, -1).reshape(-1)
    weight = torch.where(letters > 0, 1.0, 0.1)
    loss = (F.cross_entropy(logits.flatten(0, 1), letters, reduction="none") * weight).sum() / weight.sum()
    rest, rates = said_loss(model, visual, batch["slots"])
    right = (logits.flatten(0, 1).argmax(-1) == letters)[letters > 0]
    return loss + rest, rates | {"letters": right.float().mean().item()}


def said_loss(model, visual, slots):
    """How far visual tokens [..., d] are from saying `slots`; and what share of words they say right, per slot."""
    near = (visual - model.ideal(slots)).square().sum(-1).mean()
    visual, slots = visual.reshape(-1, visual.shape[-1]), slots.reshape(-1, slots.shape[-1])
    written = slots[:, 0] != ENCODER.blank
    losses, weights, rates = 0, 0, {}
    for s, name in enumerate(pages.SLOTS):
        shown = (slots[:, s] >= 0).nonzero()[:, 0]
        if not len(shown):
            continue
        logits = model.read(visual[shown], s)
        if name in ("row", "column"):  # read by the same rotation: the other one's word is no mistake
            other = slots[shown, pages.SLOTS.index("row" if name == "column" else "column")]
            logits = logits.masked_fill(F.one_hot(other.clamp(min=0), logits.shape[1]).bool() & (other >= 0)[:, None], -100)
        weight = torch.where(written[shown], 1.0, 0.1)
        losses = losses + (F.cross_entropy(logits, slots[shown, s], reduction="none") * weight).sum()
        weights = weights + weight.sum()
        right = (logits.argmax(-1) == slots[shown, s])[written[shown]]
        if len(right):
            rates[name] = right.float().mean().item()
    return near + losses / weights, rates


def language_loss(model, batch, visual):
    ids = batch["ids"]
    x = model.language.table[ids.clamp(min=0)]
    x = x.masked_scatter((ids < 0)[..., None], visual.to(x.dtype))
    hidden = model.language(x, batch["positions"])
    asked = batch["answers"][:, 1:]
    logits = hidden[:, :-1][asked] @ model.language.table.T
    wanted = ids[:, 1:][asked]
    right = (logits.argmax(-1) == wanted).float()
    kinds = batch["kinds"][:, 1:][asked]
    rates = {name: right[kinds == k].mean().item() for k, name in enumerate(ENCODER.KINDS) if (kinds == k).any()}
    return F.cross_entropy(logits, wanted), rates


def draw_visual(model, batch, frozen):
    """The visual tokens of a batch's pictures, in the order of its conversations."""
    visual = torch.empty(len(batch["slots"]), model.config.d, device=batch["slots"].device)
    with torch.set_grad_enabled(not frozen):
        for at, pictures in batch["pictures"]:
            tokens = model.vision(pictures)
            where = (at[:, None] + torch.arange(tokens.shape[1], device=at.device)).reshape(-1)
            visual = visual.index_put((where,), tokens.reshape(len(where), -1).float())
    return visual


def to(batch, device):
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to(value, device) for key, value in batch.items()}
    return type(batch)(to(value, device) for value in batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vision", "language", "joint"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of this call; the learning rate ends with it")
    parser.add_argument("--start", type=Path, help="stage joint starts from the exported f16 files in this directory")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--final-lr", type=float, default=2e-5)
    parser.add_argument("--tokens", type=int, default=2048, help="a batch")
    parser.add_argument("--largest", type=int, default=168, help="visual tokens of a picture")
    parser.add_argument("--pages", type=int, default=4, help="most pages of a conversation")
    parser.add_argument("--noise", type=float, default=0.3, help="of visual tokens in stage language, as a norm")
    parser.add_argument("--freeze-vision", action="store_true", help="in stage joint, train the language model only")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    model = Model(Config(n_vocab=len(TOKENIZER.tokens)), TOKENIZER.starts).to(device)
    frozen = [model.language.table] if args.stage != "joint" else []
    part = {"vision": model.vision, "language": model.language, "joint": model}[args.stage]
    if args.stage == "joint" and args.freeze_vision:
        frozen += list(model.vision.parameters())
    trained = [p for p in part.parameters() if not any(p is f for f in frozen)]
    matrices = [p for p in trained if p.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01},
                                   {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0}],
                                  lr=args.lr, betas=(0.9, 0.98), fused=True)
    path = args.out / f"{args.stage}.pt"
    step = 0
    if path.exists():
        saved = torch.load(path, map_location=device)
        model.load_state_dict(saved["model"])
        step = saved["step"]
        if len(saved["optimizer"]["param_groups"][0]["params"]) == len(matrices):
            optimizer.load_state_dict(saved["optimizer"])
    elif args.stage == "joint" and args.start:
        export.read(model, args.start)
    elif args.stage == "joint":
        load(model, args.out, device)

    def save():
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                    "config": vars(model.config)}, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)

    def make(number):
        seed = [{"vision": 1, "language": 2, "joint": 3}[args.stage], number]
        if args.stage == "vision":
            return pool.submit(vision_batch, seed, args.tokens, args.largest)
        return pool.submit(conversation_batch, seed, args.tokens, args.largest, args.pages, args.stage == "joint")

    log = open(args.out / f"{args.stage}.jsonl", "a")
    start = saved_at = logged_at = time.time()
    first, sums, n_logged, rates_sum = step, 0.0, 0, {}
    with concurrent.futures.ProcessPoolExecutor(
            args.workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        ahead = [make(step + i) for i in range(2 * args.workers + 1)]
        while (elapsed := time.time() - start) < args.minutes * 60:
            share = elapsed / (args.minutes * 60)
            warm = min(1.0, (step - first + 1) / 100)
            rate = warm * (args.final_lr + (args.lr - args.final_lr) * 0.5 * (1 + math.cos(math.pi * share)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = to(ahead.pop(0).result(), device)
            ahead.append(make(step + len(ahead) + 1))
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                if args.stage == "vision":
                    loss, rates = vision_loss(model, batch)
                else:
                    if args.stage == "language":
                        with torch.no_grad():
                            visual = model.ideal(batch["slots"])
                            visual = visual + torch.randn_like(visual) * args.noise * visual.shape[-1]**-0.5
                        loss, rates = language_loss(model, batch, visual)
                    else:
                        visual = draw_visual(model, batch, args.freeze_vision)
                        loss, rates = language_loss(model, batch, visual)
                        if not args.freeze_vision:
                            loss = loss + 0.3 * said_loss(model, visual, batch["slots"])[0]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
            sums, n_logged = sums + loss.item(), n_logged + 1
            for name, right in rates.items():
                rates_sum.setdefault(name, []).append(right)
            if time.time() - logged_at > 20:
                line = {"step": step, "minutes": round((time.time() - start) / 60, 1), "loss": round(sums / n_logged, 4),
                        "steps/s": round(n_logged / (time.time() - logged_at), 2), "lr": float(f"{rate:.2e}")}
                line |= {name: round(float(np.mean(right)), 3) for name, right in sorted(rates_sum.items())}
                print(json.dumps(line), flush=True)
                print(json.dumps(line), file=log, flush=True)
                logged_at, sums, n_logged, rates_sum = time.time(), 0.0, 0, {}
            if time.time() - saved_at > 120:
                save()
                saved_at = time.time()
        save()
        for batch in ahead:
            batch.cancel()


if __name__ == "__main__":
    main()
