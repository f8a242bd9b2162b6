"""Writes a Hugging Face checkpoint as GGUF, for llama.cpp.

    python gguf_from_hf.py CHECKPOINT OUT.gguf --experts bf16|q8_0|q4_0 --trunk bf16|q8_0|q4_0

Developer-only; needs numpy and gguf. It knows the families that CORM reads, as far as llama.cpp computes
them: mixtral (llama.cpp calls it llama), olmoe, qwen2_moe, qwen3_moe. What would be computed differently
there is refused.

All matrices are written in the types asked for, embedding and head as part of the trunk; norms, biases and
routers in f32, as llama.cpp's own converter has them. There is no vocabulary in the file: the comparison feeds token ids.
Memory: one layer's gate, up or down of all experts.
"""
import argparse
import json
import mmap
import os
import struct
import sys

import gguf
import numpy as np

TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
         "q4_0": gguf.GGMLQuantizationType.Q4_0}


def fail(text):
    sys.exit(f"gguf_from_hf: {text}")


# ---- reading ----

class Checkpoint:
    """Tensors by name, [rows, cols] or [n], as float32."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "config.json")) as f:
            self.config = json.load(f)
        self.places = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".safetensors"):
                self._open(os.path.join(folder, name))
        if not self.places:
            fail(f"{folder}: no *.safetensors in it")

    def _open(self, path):
        with open(path, "rb") as f:
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        size, = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                self.places[name] = (data, 8 + size + begin, end - begin, entry)

    def has(self, name):
        return name in self.places

    def raw(self, name):
        """The stored numbers, and the name of their type."""
        if name not in self.places:
            fail(f"{self.folder}: tensor {name} is missing (names of transformers 4 are expected)")
        data, offset, size, entry = self.places[name]
        kinds = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
        if entry["dtype"] not in kinds:
            fail(f"{name}: {entry['dtype']} is not one of {', '.join(kinds)}")
        kind = kinds[entry["dtype"]]
        flat = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, offset)
        return flat.reshape(entry["shape"]), entry["dtype"]

    def f32(self, name):
        values, kind = self.raw(name)
        return widen(values) if kind == "BF16" else values.astype(np.float32)


def widen(bf16):
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def encode(values, dtype, kind):
    """[rows, cols] of any stored type -> [rows, bytes of a row]."""
    if kind == TYPES["bf16"] and dtype == "BF16":
        return np.ascontiguousarray(values).view(np.uint8)
    wide = widen(values) if dtype == "BF16" else values.astype(np.float32)
    return gguf.quants.quantize(wide, kind).view(np.uint8)


# ---- what each family is called ----

# Hugging Face's name of a tensor of layer {i} -> llama.cpp's, and how it is stored. Experts have their
# own rows below. m: matrix, in the type asked for; q, k: the same, rows reordered where llama.cpp turns
# neighbours (see turn); v: vector, r: router, f32 both. ?: may be absent.
COMMON = [
    ("input_layernorm.weight", "attn_norm.weight", "v"),
    ("self_attn.q_proj.weight", "attn_q.weight", "q"),
    ("self_attn.k_proj.weight", "attn_k.weight", "k"),
    ("self_attn.v_proj.weight", "attn_v.weight", "m"),
    ("self_attn.o_proj.weight", "attn_output.weight", "m"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight", "v?"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight", "v?"),
    ("self_attn.q_proj.bias", "attn_q.bias", "v?"),
    ("self_attn.k_proj.bias", "attn_k.bias", "v?"),
    ("self_attn.v_proj.bias", "attn_v.bias", "v?"),
    ("post_attention_layernorm.weight", "ffn_norm.weight", "v"),
    ("block_sparse_moe.gate.weight", "ffn_gate_inp.weight", "r?"),
    ("mlp.gate.weight", "ffn_gate_inp.weight", "r?"),
    ("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", "s?"),
    ("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", "m?"),
    ("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", "m?"),
    ("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", "m?"),
]

PLAIN = {"gate": "mlp.experts.{e}.gate_proj.weight", "up": "mlp.experts.{e}.up_proj.weight",
         "down": "mlp.experts.{e}.down_proj.weight"}
MIXTRAL = {"gate": "block_sparse_moe.experts.{e}.w1.weight",
           "up": "block_sparse_moe.experts.{e}.w3.weight",
           "down": "block_sparse_moe.experts.{e}.w2.weight"}

# model_type -> llama.cpp's name, experts' tensor names, keys of config.json for the number of experts and
# their width, whether llama.cpp renormalises the chosen experts' weights, whether its rotary embedding
# turns neighbours.
FAMILIES = {
    "mixtral": ("llama", MIXTRAL, "num_local_experts", "intermediate_size", True, True),
    "olmoe": ("olmoe", PLAIN, "num_experts", "intermediate_size", False, False),
    "qwen2_moe": ("qwen2moe", PLAIN, "num_experts", "moe_intermediate_size", False, False),
    "qwen3_moe": ("qwen3moe", PLAIN, "num_experts", "moe_intermediate_size", True, False),
}


def check(config):
    """Refuse what llama.cpp computes otherwise than the checkpoint says."""
    family = config.get("model_type")
    if family not in FAMILIES:
        fail(f"model_type {family} is not one of {', '.join(FAMILIES)}")
    renormalises = FAMILIES[family][4]
    norm_topk = config.get("norm_topk_prob", family == "mixtral")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    refused = [
        (norm_topk != renormalises, f"norm_topk_prob {norm_topk}"),
        (config.get("clip_qkv"), f"clip_qkv {config.get('clip_qkv')}"),
        (rope.get("rope_type", rope.get("type", "default")) != "default", f"rope scaling {rope}"),
        (window and window < config["max_position_embeddings"], f"sliding_window {window}"),
        (config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers"),
         "layers without experts"),
        (config.get("hidden_act", "silu") != "silu", f"hidden_act {config.get('hidden_act')}"),
    ]
    for wrong, what in refused:
        if wrong:
            fail(f"llama.cpp's {FAMILIES[family][0]} does not compute this: {what}")


# ---- writing ----

def turn(matrix, heads):
    """Rows of a head from (first half, second half) to neighbours: how llama.cpp rotates them."""
    rows, cols = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


class Output:
    """Two passes over the tensors: names and shapes first, then the bytes."""

    def __init__(self, path, arch, trunk, experts):
        self.writer = gguf.GGUFWriter(path, arch)
        self.trunk, self.experts = trunk, experts
        self.plan = []

    def add(self, name, shape, make, kind=None):
        """`make` returns rows encoded as `kind`, bytes of shape [..., bytes of a row]; without, f32."""
        if kind is not None:
            row_bytes = gguf.quant_shape_to_byte_shape(shape, kind)
            self.writer.add_tensor_info(name, row_bytes, np.dtype(np.uint8),
                                        int(np.prod(row_bytes, dtype=np.int64)), kind)
        else:
            self.writer.add_tensor_info(name, shape, np.dtype(np.float32),
                                        4 * int(np.prod(shape, dtype=np.int64)))
        self.plan.append((name, make))

    def write(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        for i, (name, make) in enumerate(self.plan):
            if sys.stderr.isatty():
                print(f"\r{i + 1} of {len(self.plan)} {name}\033[K", end="", file=sys.stderr)
            self.writer.write_tensor_data(make())
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self.writer.close()


def add_matrix(out, model, name, source, heads=0):
    def make():
        values, dtype = model.raw(source)
        return encode(turn(values, heads) if heads else values, dtype, out.trunk)
    out.add(name, model.raw(source)[0].shape, make, out.trunk)


def add_vector(out, model, name, source, flat=True):
    shape = model.raw(source)[0].shape
    shape = (int(np.prod(shape)),) if flat else shape
    out.add(name, shape, lambda: model.f32(source).reshape(shape))


def add_experts(out, model, name, source, n):
    shape = (n,) + model.raw(source.format(e=0))[0].shape

    def make():
        whole = np.empty(gguf.quant_shape_to_byte_shape(shape, out.experts), np.uint8)
        for e in range(n):
            whole[e] = encode(*model.raw(source.format(e=e)), out.experts)
        return whole
    out.add(name, shape, make, out.experts)


def add_layer(out, model, layer, heads, kv_heads, n_experts, names, neighbours):
    hf, gg = f"model.layers.{layer}.", f"blk.{layer}."
    for source, name, how in COMMON:
        if how.endswith("?") and not model.has(hf + source):
            continue
        if how[0] in "mqk":
            turned = {"q": heads, "k": kv_heads}.get(how[0], 0) if neighbours else 0
            add_matrix(out, model, gg + name, hf + source, turned)
        else:
            add_vector(out, model, gg + name, hf + source, how[0] != "r")
    for part, source in names.items():
        add_experts(out, model, f"{gg}ffn_{part}_exps.weight", hf + source, n_experts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--experts", choices=TYPES, default="bf16")
    parser.add_argument("--trunk", choices=TYPES, default="bf16")
    args = parser.parse_args()
    model = Checkpoint(args.checkpoint)
    config = model.config
    check(config)
    arch, names, experts_key, ffn_key, _, neighbours = FAMILIES[config["model_type"]]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    n_experts = config[experts_key]
    rope = config.get("rope_parameters") or {}

    part = args.output + ".part"
    out = Output(part, arch, TYPES[args.trunk], TYPES[args.experts])
    w = out.writer
    w.add_name(os.path.basename(os.path.normpath(args.checkpoint)))
    w.add_vocab_size(config["vocab_size"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    if ffn_key == "moe_intermediate_size":
        w.add_expert_feed_forward_length(config[ffn_key])
    if config.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(config.get("rope_theta", rope.get("rope_theta", 10000.0)))
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_expert_count(n_experts)
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_file_type({"bf16": 32, "q8_0": 7, "q4_0": 2}[args.experts])
    w.add_tokenizer_model("no_vocab")

    add_matrix(out, model, "token_embd.weight", "model.embed_tokens.weight")
    add_vector(out, model, "output_norm.weight", "model.norm.weight")
    if not config.get("tie_word_embeddings"):
        add_matrix(out, model, "output.weight", "lm_head.weight")
    for layer in range(config["num_hidden_layers"]):
        add_layer(out, model, layer, heads, kv_heads, n_experts, names, neighbours)
    out.write()
    os.rename(part, args.output)


if __name__ == "__main__":
    main()
