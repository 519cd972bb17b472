"""Writes what training left in a directory as GGUF: a language model (architecture qwen2vl) and a vision tower (qwen2vl_merger).

  export.py RUN DIR    DIR/reference-{f16,q8_0}.gguf, DIR/mmproj-reference-{f16,q8_0}.gguf
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch

import vocabulary
from model import Config, Model, load

# The ChatML of Qwen2-VL without its default system prompt.
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tensors(writer, named, kind):
    """Matrices in the type asked for where its blocks fit, everything else in f32 (patches in f16, as convolutions need)."""
    for name, tensor in named:
        data = tensor.detach().float().cpu().numpy()
        if data.ndim < 2:
            writer.add_tensor(name, data.astype(np.float32))
        elif data.ndim > 2 or kind == "f16" or data.shape[-1] % 32:
            writer.add_tensor(name, data.astype(np.float16))
        else:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, q8), raw_dtype=q8)


def language_tensors(model):
    """Names in the GGUF with views of the model's parameters."""
    language = model.language
    named = [("token_embd.weight", language.table.data), ("output_norm.weight", language.norm.weight)]
    for i, layer in enumerate(language.layers):
        named += [(f"blk.{i}.{ours}", tensor) for ours, tensor in (
            ("attn_norm.weight", layer.norm1.weight), ("ffn_norm.weight", layer.norm2.weight),
            ("attn_q.weight", layer.q.weight), ("attn_q.bias", layer.q.bias),
            ("attn_k.weight", layer.k.weight), ("attn_k.bias", layer.k.bias),
            ("attn_v.weight", layer.v.weight), ("attn_v.bias", layer.v.bias),
            ("attn_output.weight", layer.out.weight), ("ffn_gate.weight", layer.gate.weight),
            ("ffn_up.weight", layer.up.weight), ("ffn_down.weight", layer.down.weight))]
    return named


def vision_tensors(model):
    """Names in the GGUF with views of the model's parameters."""
    c, vision = model.config, model.vision
    # llama.cpp adds two temporal kernels; a still picture needs one.
    kernel = vision.patches.weight.view(c.vision_d, 3, c.patch, c.patch)
    named = [("v.patch_embd.weight", kernel), ("v.patch_embd.weight.1", torch.zeros_like(kernel)),
             ("v.post_ln.weight", vision.post.weight), ("v.post_ln.bias", vision.post.bias),
             ("mm.0.weight", vision.mm0.weight), ("mm.0.bias", vision.mm0.bias),
             ("mm.2.weight", vision.mm2.weight), ("mm.2.bias", vision.mm2.bias)]
    for i, layer in enumerate(vision.layers):
        for ours, module in (("ln1", layer.ln1), ("ln2", layer.ln2), ("attn_out", layer.out), ("ffn_up", layer.up),
                             ("ffn_down", layer.down)):
            named += [(f"v.blk.{i}.{ours}.weight", module.weight), (f"v.blk.{i}.{ours}.bias", module.bias)]
        for ours, weight, bias in zip(("attn_q", "attn_k", "attn_v"), layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)):
            named += [(f"v.blk.{i}.{ours}.weight", weight), (f"v.blk.{i}.{ours}.bias", bias)]
    return named


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_language(model, tokenizer, path, kind):
    c = model.config
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_name("RetentiveKV reference")
    writer.add_block_count(c.layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(c.d)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_rope_dimension_sections([*c.sections, 0])
    writer.add_layer_norm_rms_eps(c.rms_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * tokenizer.n_normal
                           + [gguf.TokenType.CONTROL] * len(vocabulary.SPECIALS))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    writer.add_eos_token_id(tokenizer.ids["<|im_end|>"])
    writer.add_eot_token_id(tokenizer.ids["<|im_end|>"])
    writer.add_pad_token_id(tokenizer.ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    tensors(writer, language_tensors(model), kind)
    finish(writer)


def export_vision(model, path, kind):
    c = model.config
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("RetentiveKV reference vision")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen2vl_merger")
    writer.add_bool("clip.use_gelu", False)
    for key, value in (("image_size", 256), ("patch_size", c.patch), ("embedding_length", c.vision_d),
                       ("feed_forward_length", c.vision_ffn), ("projection_dim", c.d),
                       ("block_count", c.vision_layers), ("attention.head_count", c.vision_heads),
                       ("spatial_merge_size", 2)):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", c.vision_epsilon)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    tensors(writer, vision_tensors(model), kind)
    finish(writer)


def read(model, directory):
    """Takes the weights of exported f16 files: `export` backwards."""
    for file, named in (("reference-f16.gguf", language_tensors(model)),
                        ("mmproj-reference-f16.gguf", vision_tensors(model))):
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(directory / file).tensors}
        for name, tensor in named:
            tensor.data.copy_(torch.from_numpy(np.array(stored[name].data)).view(tensor.shape))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("directory", type=Path)
    args = parser.parse_args()
    tokenizer = vocabulary.Tokenizer()
    model = Model(Config(n_vocab=len(tokenizer.tokens)), tokenizer.starts)
    load(model, args.run)
    args.directory.mkdir(parents=True, exist_ok=True)
    for kind in ("f16", "q8_0"):
        export_language(model, tokenizer, args.directory / f"reference-{kind}.gguf", kind)
        export_vision(model, args.directory / f"mmproj-reference-{kind}.gguf", kind)
    print(sum(p.numel() for p in model.parameters()), "parameters")


if __name__ == "__main__":
    main()
