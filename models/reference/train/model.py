"""The model as llama.cpp computes it (qwen2vl and qwen2vl_merger), in PyTorch."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pages import LETTERS, SLOTS


RAW_SLOTS = ["colour", "left", "above"]


@dataclass
class Config:
    n_vocab: int
    d: int = 256  # of the language model
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    sections: tuple = (8, 12, 12)  # pairs that rotate with time, row and column
    rope_base: float = 1e8
    rms_epsilon: float = 1e-6
    vision_d: int = 192
    vision_layers: int = 4
    vision_heads: int = 6
    vision_ffn: int = 768
    vision_epsilon: float = 1e-5
    patch: int = 8

    @property
    def head(self):
        return self.d // self.heads


def _rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _orthonormal(rows, columns, generator):
    q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=generator))
    return q if rows >= columns else q.T


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.vision_heads
        self.ln1 = nn.LayerNorm(c.vision_d, eps=c.vision_epsilon)
        self.ln2 = nn.LayerNorm(c.vision_d, eps=c.vision_epsilon)
        self.qkv = nn.Linear(c.vision_d, 3 * c.vision_d)
        self.out = nn.Linear(c.vision_d, c.vision_d)
        self.up = nn.Linear(c.vision_d, c.vision_ffn)
        self.down = nn.Linear(c.vision_ffn, c.vision_d)

    def forward(self, x, cos, sin):
        n, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, d))
        y = self.up(self.ln2(x))
        return x + self.down(y * torch.sigmoid(1.702 * y))


class Vision(nn.Module):
    """Pictures [n, 16 h, 16 w, 3] of bytes -> visual tokens [n, h w, d]."""

    def __init__(self, c, generator):
        super().__init__()
        self.c = c
        self.patches = nn.Linear(3 * c.patch * c.patch, c.vision_d, bias=False)
        self.layers = nn.ModuleList(VisionLayer(c) for _ in range(c.vision_layers))
        self.letters = nn.Linear(c.vision_d, len(LETTERS))  # only to learn from: what stands in a patch
        self.post = nn.LayerNorm(c.vision_d, eps=c.vision_epsilon)
        self.mm0 = nn.Linear(4 * c.vision_d, 4 * c.vision_d)
        self.mm2 = nn.Linear(4 * c.vision_d, c.d)
        for layer in self.layers:
            nn.init.normal_(layer.out.weight, std=0.02)
            nn.init.normal_(layer.down.weight, std=0.02)
            nn.init.zeros_(layer.qkv.bias)
            # Heads that start by looking along their own row, along their own column, and around them: queries and
            # keys share a constant, so that after rotation the distance alone decides.
            head = c.vision_d // c.vision_heads
            for which, (rows, columns) in enumerate([(1, 0), (0, 1), (1, 1), (1, 1)]):
                start = torch.zeros(head)
                for first, used in ((0, rows), (head // 4, columns)):
                    start[first:first + 3] = used * 2.4
                for part in (0, 1):
                    at = part * c.vision_d + which * head
                    layer.qkv.bias.data[at:at + head] = start
                    if (rows, columns) != (1, 1):
                        layer.qkv.weight.data[at:at + head] *= 0.5

    def _rotation(self, height, width):
        quarter = self.c.vision_d // self.c.vision_heads // 4
        y, x = torch.meshgrid(torch.arange(2 * height), torch.arange(2 * width), indexing="ij")
        at = torch.stack([_merge_order(p[None, :, :, None], height, width)[0, :, 0] for p in (y, x)])  # [2, t]
        frequency = 10000.0 ** (-torch.arange(quarter) / quarter)
        angle = torch.cat([at[0, :, None] * frequency, at[1, :, None] * frequency], -1)
        return angle.cos(), angle.sin()

    def forward(self, pictures, with_letters=False):
        """With `with_letters`, also the logits [n, 4 h w, letters] of each patch, of a cell's four side by side."""
        n, height, width = pictures.shape[0], pictures.shape[1] // 16, pictures.shape[2] // 16
        p = self.c.patch
        x = (pictures.float() / 255 - 0.5) / 0.5
        x = x.view(n, 2 * height, p, 2 * width, p, 3).permute(0, 1, 3, 5, 2, 4).reshape(n, 2 * height, 2 * width, -1)
        x = self.patches(_merge_order(x, height, width))
        cos, sin = (part.to(x.device) for part in self._rotation(height, width))
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin)
            if i == 1:
                letters = x
        x = self.post(x).reshape(n, height * width, -1)
        x = self.mm2(F.gelu(self.mm0(x)))
        return (x, self.letters(letters)) if with_letters else x


def _merge_order(x, height, width):
    """[n, 2 height, 2 width, ...] -> [n, 4 height width, ...]: the four patches of a cell side by side."""
    n, d = x.shape[0], x.shape[-1]
    return x.reshape(n, height, 2, width, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(n, 4 * height * width, d)


class LanguageLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.norm1 = nn.RMSNorm(c.d, eps=c.rms_epsilon)
        self.norm2 = nn.RMSNorm(c.d, eps=c.rms_epsilon)
        self.q = nn.Linear(c.d, c.heads * c.head)
        self.k = nn.Linear(c.d, c.kv_heads * c.head)
        self.v = nn.Linear(c.d, c.kv_heads * c.head)
        self.out = nn.Linear(c.heads * c.head, c.d, bias=False)
        self.gate = nn.Linear(c.d, c.ffn, bias=False)
        self.up = nn.Linear(c.d, c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.d, bias=False)
        for part in (self.q, self.k, self.v):
            nn.init.normal_(part.weight, std=c.d**-0.5)
            nn.init.zeros_(part.bias)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.normal_(self.down.weight, std=0.01)

    def forward(self, x, cos, sin):
        c, (n, t, _) = self.c, x.shape
        y = self.norm1(x)
        q = self.q(y).view(n, t, c.heads, c.head).transpose(1, 2)
        k = self.k(y).view(n, t, c.kv_heads, c.head).transpose(1, 2)
        v = self.v(y).view(n, t, c.kv_heads, c.head).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = (part.repeat_interleave(c.heads // c.kv_heads, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Language(nn.Module):
    """Embeddings [n, t, d] at positions [n, 3, t] -> hidden states [n, t, d]; logits are their products with `table`.

    Starts as a circuit that can already look things up, since finding one by chance takes most of the training that
    two cores can give. Layer 0 gathers a question's content words, and whether it asks for a colour, a left or an upper
    neighbour, at the question's end. Layers 1 and 2 find the visual tokens whose row or column head is asked for, and
    those that show the sign asked for, and copy what they say; layer 2's FFN lets through what was asked.
    """

    def __init__(self, c, relations, words, generator):
        super().__init__()
        self.c = c
        relation = dict(zip(SLOTS, relations))
        # What the dimensions are for at the start: marks of content words, visual tokens and words that tell a kind;
        # the content and the kinds asked for; what a sign's token says; the answer.
        marks, content, kinds, raw, told = torch.eye(c.d).split([3, 43, 8, 96, c.d - 150])
        table = torch.randn(c.n_vocab, c.d, generator=generator) * 0.1
        table[:, :3] = 0
        table[:, 46:54] = 0
        table[words["content"]] += 0.8 * marks[0]
        for kind, name in enumerate(RAW_SLOTS):
            table[words[name]] += 0.8 * marks[2] + 1.6 * kinds[kind]
        self.table = nn.Parameter(table)
        self.register_buffer("visual_mark", marks[1])
        self.layers = nn.ModuleList(LanguageLayer(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.d, eps=c.rms_epsilon)
        self.norm.weight.data[1:150] = 0.1
        self.norm.weight.data[150:] = 2.0

        # Pairs turn by 10^(-i/4) a position (rope_base 1e8): 4 and 5 tell a question's length, those from 10 on nothing.
        slow = [i for i in range(c.head) if i % (c.head // 2) >= 10]
        near = torch.zeros(c.head)
        near[4:6] = 2.2
        first = self.layers[0]
        first.q.weight.data *= 0.1
        first.k.weight.data *= 0.1
        first.q.weight.data -= 0.2 * near.repeat(c.heads)[:, None] @ marks[1:2]  # visual tokens gather nothing
        first.q.bias.data[:] = near.repeat(c.heads)
        first.k.bias.data[:] = 2.0 * near.repeat(c.kv_heads)
        for kv_head, (mark, gathered, gain) in enumerate([(marks[:1], content, 0.6), (marks[2:], kinds, 0.2)]):
            first.k.weight.data[kv_head * c.head:][:c.head] += near[:, None] @ mark
            self._copy(first, kv_head, gathered, gathered, gain)
        for index, layer in enumerate(self.layers[1:3]):
            match = torch.zeros(c.head, c.d)
            match[slow[1:]] = (1.7 + 0.6 * index) * content
            seen = torch.zeros(c.head)
            seen[slow[0]] = 4.5
            layer.q.weight.data[:] = match.repeat(c.heads, 1)
            layer.q.bias.data[:] = seen.repeat(c.heads)
            layer.k.weight.data[:] = torch.cat([match @ relation["row"], match @ relation["self"]])
            layer.k.weight.data += seen.repeat(c.kv_heads)[:, None] @ marks[1:2]
            answer = told[index * (len(told) - c.head):][:c.head]
            self._copy(layer, 0, answer @ relation["self"], answer, 0.5)
            third = torch.split(told[:96], 32)
            say = [third[kind] @ relation[name] for kind, name in enumerate(RAW_SLOTS)]
            which = [[0, 1], [2, 0]][index]
            self._copy(layer, 1, torch.cat([say[kind] for kind in which]),
                       torch.cat([raw[32 * kind:][:32] for kind in which]), 0.5)
        let = self.layers[2]
        let.gate.weight.data[:96] = 3 * kinds[:3].repeat_interleave(32, 0)
        let.up.weight.data[:96] = raw
        let.down.weight.data[:, :96] = 0.3 * told[:96].T

    def _copy(self, layer, kv_head, read, write, gain):
        """Lets the heads of a KV head's group copy the coordinates `read` [n, d] of what they attend to `write`."""
        c, n = self.c, len(read)
        layer.v.weight.data[kv_head * c.head:][:n] = read
        repeat = c.heads // c.kv_heads
        for head in range(kv_head * repeat, (kv_head + 1) * repeat):
            layer.out.weight.data[:, head * c.head:][:, :n] = gain * write.T

    def forward(self, x, positions):
        c = self.c
        frequency = c.rope_base ** (-torch.arange(c.head // 2, device=x.device) / (c.head // 2))
        section = torch.repeat_interleave(torch.arange(3, device=x.device), torch.tensor(c.sections, device=x.device))
        angle = positions[:, section].transpose(1, 2).float() * frequency  # [n, t, head / 2]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Model(nn.Module):
    def __init__(self, config, words, seed=1):
        """`words`: the token ids of content words, and of the words that ask for each of RAW_SLOTS."""
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        relations = torch.stack([_orthonormal(config.d, config.d, generator) for _ in SLOTS])
        relations[SLOTS.index("column")] = relations[SLOTS.index("row")]  # one look-up finds both
        self.register_buffer("relations", relations)  # [slots, d, d]
        self.language = Language(config, relations, words, generator)
        self.vision = Vision(config, generator)

    def ideal(self, slots):
        """The visual tokens [..., d] that say `slots` [..., n_slots], token ids or -1: the sum of their embeddings,
        each turned by its slot's rotation, and the mark of visual tokens."""
        said = torch.einsum("vd,sde->sve", self.language.table, self.relations)
        said = torch.cat([said, torch.zeros_like(said[:, :1])], 1)  # id -1 says nothing
        return sum(said[s][slots[..., s]] for s in range(len(SLOTS))) + self.language.visual_mark

    def read(self, visual, slot):
        """Logits [..., n_vocab] of what visual tokens [..., d] say in a slot: `ideal` backwards."""
        return visual @ self.relations[slot].T @ self.language.table.T * 8


def load(model, directory, device="cpu"):
    """The newest state that training left in `directory`: of stage joint, or what the other two taught their part."""
    joint = directory / "joint.pt"
    if joint.exists():
        model.load_state_dict(torch.load(joint, map_location=device)["model"])
        return
    for stage in ("vision", "language"):
        if (directory / f"{stage}.pt").exists():
            saved = torch.load(directory / f"{stage}.pt", map_location=device)["model"]
            model.load_state_dict({name: value for name, value in saved.items() if name.startswith(stage + ".")},
                                  strict=False)
