"""Writes an archive of `synth straight` as GGUF, for llama.cpp.

    python gguf_of_shape.py MODEL.corm OUT.gguf [--experts q4_0|f32] [--text TEXT --ids IDS]

Developer-only; needs numpy and gguf. It knows the two kinds of shapes that synth has: gpt_oss and qwen3_5_moe.

The trunk holds the same numbers (q8 is Q8_0 in another order; routers and vectors in f32). Experts in f32 do,
too, and the two programs can be compared; that is for tiny shapes. In q4_0, as many bits as ours, they have the
archive's codes under its scales as far as Q4_0 can: its values are q - 8 where these are q - 7.5, so code 0
becomes 8, lest all values be half a step too low on average; and down's codes are taken in their order under
its mean scale, for ours run along the other side of the matrix. Random codes of mean 0 and one size are what
both are: the same bytes and work, and routing of the same statistics, while single choices of experts differ.

There is no vocabulary in the file: the comparison feeds token ids, those of TEXT, in the language of synth.
"""
import argparse
import mmap
import os
import struct
import sys

import gguf
import numpy as np

Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
GROUP = 32
CONSONANTS, VOWELS = "bcdfghjklmnprstvwxyz", "aeiou"
CODECS = {1: "f32", 2: "bf16", 3: "f16", 4: "q8", 5: "q4"}
METADATA, TENSORS, INDEX = 1, 3, 6
MODEL = 0xffffffff

# format/arch.h, enum slot_id
SLOTS = """embed out_norm head attn_norm q k v o q_bias k_bias v_bias o_bias q_norm k_norm ffn_norm router mlp_gate
mlp_up mlp_down mlp_switch expert_gate expert_up expert_down attn_gate sinks attn_post_norm ffn_post_norm mlp_norm
mlp_post_norm moe_post_norm router_norm router_bias router_select router_factor expert_gate_bias expert_up_bias
expert_down_bias layer_scale delta_qkv delta_z delta_b delta_a delta_conv delta_rate delta_dt_bias delta_norm
delta_out""".split()

# Slot -> llama.cpp's name, what becomes of it.
NAMES = {
    "embed": "token_embd.weight", "out_norm": "output_norm.weight", "head": "output.weight",
    "attn_norm": "attn_norm.weight", "q": "attn_q.weight", "k": "attn_k.weight", "v": "attn_v.weight", "o": "attn_output.weight",
    "q_bias": "attn_q.bias", "k_bias": "attn_k.bias", "v_bias": "attn_v.bias", "o_bias": "attn_output.bias",
    "q_norm": "attn_q_norm.weight", "k_norm": "attn_k_norm.weight", "ffn_norm": "post_attention_norm.weight",
    "router": "ffn_gate_inp.weight", "router_bias": "ffn_gate_inp.bias", "sinks": "attn_sinks.weight",
    "mlp_gate": "ffn_gate_shexp.weight", "mlp_up": "ffn_up_shexp.weight", "mlp_down": "ffn_down_shexp.weight",
    "mlp_switch": "ffn_gate_inp_shexp.weight", "expert_gate_bias": "ffn_gate_exps.bias",
    "expert_up_bias": "ffn_up_exps.bias", "expert_down_bias": "ffn_down_exps.bias",
    "delta_qkv": "attn_qkv.weight", "delta_z": "attn_gate.weight", "delta_b": "ssm_beta.weight",
    "delta_a": "ssm_alpha.weight", "delta_conv": "ssm_conv1d.weight", "delta_rate": "ssm_a",
    "delta_dt_bias": "ssm_dt.bias", "delta_norm": "ssm_norm.weight", "delta_out": "ssm_out.weight",
}
VECTORS = {"q_bias", "k_bias", "v_bias", "o_bias", "sinks", "router_bias", "mlp_switch", "delta_rate",
           "delta_dt_bias"}


def fail(text):
    sys.exit(f"gguf_of_shape: {text}")


# ---- the archive (docs/FORMAT.md) ----

class Archive:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        n, = struct.unpack_from("<I", self.data, 12)
        table, = struct.unpack_from("<Q", self.data, 40)
        self.sections = {}
        for i in range(n):
            kind, _, at, size, _ = struct.unpack_from("<IIQQQ", self.data, table + 32 * i)
            self.sections[kind] = (at, size)
        at, size = self.sections[TENSORS]
        self.tensors = {}
        for i in range(size // 48):
            slot, layer, codec, rows, cols, _, offset, length, _ = struct.unpack_from("<6I3Q", self.data, at + 48 * i)
            self.tensors[layer, SLOTS[slot]] = (CODECS[codec], rows, cols, offset, length)
        self.meta = self.read_metadata(*self.sections[METADATA])
        at, _ = self.sections[INDEX]
        self.n_records, n_chunks, codec, _ = struct.unpack_from("<4I", self.data, at)
        if CODECS[codec] != "q4":
            fail(f"experts are {CODECS[codec]}, expected q4")
        self.records = at + 32
        self.chunks = self.records + 8 * self.n_records

    def read_metadata(self, at, size):
        """Numbers and lists of numbers, and texts, by key."""
        end, out = at + size, {}
        at += 4
        while at < end:
            key, value, at = read_field(self.data, at)
            out[key] = value
        return out

    def tensor(self, layer, slot):
        """The stored rows: bytes of q8, numbers of others."""
        codec, rows, cols, offset, length = self.tensors[layer, slot]
        raw = np.frombuffer(self.data, np.uint8, length, offset)
        if codec == "q8":
            raw = raw.reshape(rows, -1)
            codes = raw[:, :cols].reshape(rows, cols // GROUP, GROUP)
            scales = raw[:, cols:].reshape(rows, cols // GROUP, 2)
            return codec, np.concatenate([scales, codes], axis=2)  # Q8_0: scale, codes
        if codec == "bf16":
            return "f32", (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(rows, cols)
        return "f32", raw.view(np.float32).reshape(rows, cols)

    def record(self, i, ffn, row_bytes):
        """Rows of all neurons of an expert: [ffn, 3, row_bytes]."""
        first, = struct.unpack_from("<I", self.data, self.records + 8 * i)
        offset, = struct.unpack_from("<Q", self.data, self.chunks + 32 * first)
        return np.frombuffer(self.data, np.uint8, ffn * 3 * row_bytes, offset).reshape(ffn, 3, row_bytes)


def read_field(data, at):
    """docs/FORMAT.md, Metadata: key, type, count, values."""
    key_bytes, kind, count = struct.unpack_from("<HHI", data, at)
    at += 8
    key = data[at:at + key_bytes].decode()
    at += key_bytes
    if kind == 3:
        return key, data[at:at + count].decode(), at + count
    return key, np.frombuffer(data, [None, "<u4", "<f4"][kind], count, at), at + 4 * count


def split_q4(rows):
    """Codes [n, groups, 16], steps and minimums [n, groups] of rows of q4."""
    cols = (rows.shape[-1] - 8) // 18 * GROUP
    groups = cols // GROUP
    codes = rows[:, :cols // 2].reshape(len(rows), groups, GROUP // 2)
    units = np.ascontiguousarray(rows[:, cols // 2 + 2 * groups:]).view(np.float32)
    steps = rows[:, cols // 2:cols // 2 + groups] * units[:, :1]
    minimums = rows[:, cols // 2 + groups:cols // 2 + 2 * groups] * units[:, 1:]
    return codes, steps, minimums


def decode_q4(rows):
    codes, steps, minimums = split_q4(rows)
    both = np.concatenate([codes & 15, codes >> 4], axis=2).astype(np.float32)
    return (both * steps[..., None] - minimums[..., None]).reshape(len(rows), -1)


# Code 0 becomes 8 in both halves of a byte, and what that takes of the size goes to the scales: the codes
# 0 .. 15 about 7.5 have a mean square of 21.25, those about 8 have 17.5.
NO_ZERO = np.array([(b & 15 or 8) | (b >> 4 or 8) << 4 for b in range(256)], np.uint8)
LARGER = (21.25 / 17.5)**0.5


def blocks_q4_0(codes, steps):
    scales = (steps * LARGER).astype(np.float16)
    return np.concatenate([scales[..., None].view(np.uint8), NO_ZERO[codes]], axis=-1)


# ---- writing ----

class Output:
    """Two passes over the tensors: names and shapes first, then the bytes."""

    def __init__(self, path, arch):
        self.writer = gguf.GGUFWriter(path, arch)
        self.plan = []

    def add(self, name, shape, make, kind=None):
        if kind is not None:
            row_bytes = gguf.quant_shape_to_byte_shape(shape, kind)
            self.writer.add_tensor_info(name, row_bytes, np.dtype(np.uint8), int(np.prod(row_bytes, dtype=np.int64)),
                                        kind)
        else:
            self.writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape, dtype=np.int64)))
        self.plan.append((name, make))

    def write(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        for name, make in self.plan:
            self.writer.write_tensor_data(np.ascontiguousarray(make()))
        self.writer.close()


def tiled(values, delta, axis=0):
    """Value heads from (key head, which of it) to (which of it, key head): how llama.cpp repeats key heads."""
    shape = values.shape
    k_heads, v_heads = delta["k_heads"], delta["v_heads"]
    per_head = shape[axis] // v_heads
    new = shape[:axis] + (k_heads, v_heads // k_heads, per_head) + shape[axis + 1:]
    return values.reshape(new).swapaxes(axis, axis + 1).reshape(shape)


def change(slot, values, delta, archive, layer):
    """What llama.cpp wants otherwise; `values` are rows of numbers or of Q8_0 blocks."""
    if slot == "delta_rate":
        return tiled(-values[0], delta)
    if slot == "delta_dt_bias":
        return tiled(values[0], delta)
    if slot in ("delta_z", "delta_a", "delta_b"):
        return tiled(values, delta)
    if slot in ("delta_qkv", "delta_conv"):
        keys = 2 * delta["k_heads"] * delta["k_dim"]
        return np.concatenate([values[:keys], tiled(values[keys:], delta)])
    if slot == "delta_out":
        return tiled(values, delta, 1)
    if slot == "q" and (layer, "attn_gate") in archive.tensors:  # of each head, queries, then its gate
        gate = archive.tensor(layer, "attn_gate")[1]
        width = archive.tensor(layer, "q_norm")[1].shape[1]
        both = np.stack([x.reshape((-1, width) + x.shape[1:]) for x in (values, gate)], axis=1)
        return both.reshape((-1,) + values.shape[1:])
    return values[0] if slot in VECTORS or slot.endswith("norm") else values


def add_tensor(out, archive, layer, slot, delta):
    codec, rows, cols, _, _ = archive.tensors[layer, slot]
    name = NAMES[slot]
    if layer != MODEL:
        name = f"blk.{layer}.{name}"
    rows *= 2 if slot == "q" and (layer, "attn_gate") in archive.tensors else 1
    vector = slot in VECTORS or slot.endswith("norm")
    out.add(name, (cols,) if vector else (rows, cols),
            lambda: change(slot, archive.tensor(layer, slot)[1], delta, archive, layer),
            Q8_0 if codec == "q8" else None)


def add_experts(out, archive, layer, n, ffn, dim, kind):
    row_bytes = dim // GROUP * 18 + 8

    def make(part):
        made = []
        for e in range(n):
            rows = archive.record(layer * n + e, ffn, row_bytes)[:, part]
            if kind is None:
                values = decode_q4(rows)
                made.append(values.T if part == 2 else values)
            else:
                codes, steps, _ = split_q4(rows)
                if part == 2:
                    codes = codes.reshape(dim, ffn // GROUP, GROUP // 2)
                    steps = np.full((dim, ffn // GROUP), steps.mean(), np.float32)
                made.append(blocks_q4_0(codes, steps))
        return np.stack(made)
    for part, name in enumerate(("gate", "up", "down")):
        shape = (n, dim, ffn) if part == 2 else (n, ffn, dim)
        out.add(f"blk.{layer}.ffn_{name}_exps.weight", shape, lambda part=part: make(part), kind)


def describe(w, meta, archive, layers):
    def number(key):
        return int(meta[key][0])

    family = meta["family"]
    w.add_name(f"synthetic {family}")
    w.add_vocab_size(number("vocab"))
    w.add_context_length(number("ctx_max_tok"))
    w.add_embedding_length(number("dim"))
    w.add_block_count(layers)
    w.add_feed_forward_length(number("ffn_dim"))
    w.add_expert_feed_forward_length(number("ffn_dim"))
    w.add_expert_count(number("n_experts"))
    w.add_expert_used_count(number("n_active"))
    w.add_layer_norm_rms_eps(float(meta["norm_eps"][0]))
    w.add_head_count(int(max(meta["n_heads"])))
    w.add_head_count_kv(int(max(meta["n_kv_heads"])))
    w.add_key_length(int(max(meta["head_dim"])))
    w.add_value_length(int(max(meta["head_dim"])))
    rope_dim = int(meta["rope_dim"][0])
    w.add_rope_dimension_count(rope_dim)
    w.add_tokenizer_model("no_vocab")
    if family == "gpt_oss":
        w.add_rope_freq_base(150000.0)
        w.add_sliding_window(int(max(meta["window"])))
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(32.0)
        w.add_rope_scaling_orig_ctx_len(4096 if layers > 4 else 128)
        return None
    w.add_rope_freq_base(1e7)
    third = rope_dim // 2 // 3
    w.add_rope_dimension_sections([rope_dim // 2 - 2 * third, third, third, 0])
    w.add_expert_shared_feed_forward_length(int(max(meta["shared_dim"])))
    k_heads, v_heads = int(max(meta["delta_k_heads"])), int(max(meta["delta_v_heads"]))
    k_dim, v_dim = int(max(meta["delta_k_dim"])), int(max(meta["delta_v_dim"]))
    w.add_ssm_conv_kernel(int(max(meta["delta_conv"])))
    w.add_ssm_state_size(k_dim)
    w.add_ssm_group_count(k_heads)
    w.add_ssm_time_step_rank(v_heads)
    w.add_ssm_inner_size(v_heads * v_dim)
    w.add_full_attention_interval(4)
    return {"k_heads": k_heads, "v_heads": v_heads, "k_dim": k_dim}


def ids_of(text):
    """tests/synth/lang.c: a word of n syllables, the first one the lowest digit, after all shorter words."""
    for word in text.split():
        syllables = [CONSONANTS.index(word[i]) + 20 * VOWELS.index(word[i + 1]) for i in range(0, len(word), 2)]
        shorter = sum(100**n for n in range(1, len(syllables)))
        yield 256 + shorter + sum(s * 100**i for i, s in enumerate(syllables))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("output")
    parser.add_argument("--experts", choices=("q4_0", "f32"), default="q4_0")
    parser.add_argument("--text")
    parser.add_argument("--ids")
    args = parser.parse_args()
    if args.ids:
        with open(args.text) as text, open(args.ids, "w") as ids:
            ids.write("\n".join(str(i) for i in ids_of(text.read())) + "\n")
    archive = Archive(args.archive)
    meta = archive.meta
    family = meta["family"]
    names = {"gpt_oss": "gpt-oss", "qwen3_5_moe": "qwen35moe"}
    if family not in names:
        fail(f"family {family} is not one of {', '.join(names)}")
    layers, dim, ffn = (int(meta[k][0]) for k in ("n_layers", "dim", "ffn_dim"))
    part = args.output + ".part"
    out = Output(part, names[family])
    delta = describe(out.writer, meta, archive, layers)
    for layer, slot in archive.tensors:
        if slot in NAMES:
            add_tensor(out, archive, layer, slot, delta)
    for layer in range(layers):
        add_experts(out, archive, layer, int(meta["n_experts"][0]), ffn, dim,
                    Q4_0 if args.experts == "q4_0" else None)
    out.write()
    os.rename(part, args.output)


if __name__ == "__main__":
    main()
