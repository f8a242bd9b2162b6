#!/usr/bin/env python3
"""A second reader of .corm archives, written from docs/FORMAT.md, not from the C code.

    read_corm.py model.corm

Checks every hash and every place that FORMAT.md fixes, decodes everything, and prints one line for each
metadata value of the model, layer (its numbers), tensor (hash of its weights as f32), record (hash of its raw neurons, hash of its weights
as f32) and small section. Exit status 1 and one line on stderr where something is wrong. Python's
standard library and the `zstd` program; slow, meant for small archives.
"""
import struct
import subprocess
import sys

M64 = (1 << 64) - 1

# ---- XXH3-64, seed 0 (xxHash specification, section XXH3) ----

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8"
    "fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364ea"
    "c5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b"
    "16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
       0x27D4EB2F165667C5)
PMX1, PMX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25


def u32(b, at):
    return int.from_bytes(b[at:at + 4], "little")


def u64(b, at):
    return int.from_bytes(b[at:at + 8], "little")


def fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche(h):
    h ^= h >> 37
    h = h * PMX1 & M64
    return h ^ h >> 32


def avalanche64(h):
    h ^= h >> 33
    h = h * P64[1] & M64
    h ^= h >> 29
    h = h * P64[2] & M64
    return h ^ h >> 32


def mix16(b, at, secret_at):
    return fold(u64(b, at) ^ u64(SECRET, secret_at), u64(b, at + 8) ^ u64(SECRET, secret_at + 8))


def hash_short(b):
    n = len(b)
    if n == 0:
        return avalanche64(u64(SECRET, 56) ^ u64(SECRET, 64))
    if n <= 3:
        both = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        return avalanche64(both ^ (u32(SECRET, 0) ^ u32(SECRET, 4)))
    if n <= 8:
        h = (u32(b, n - 4) + (u32(b, 0) << 32)) ^ (u64(SECRET, 8) ^ u64(SECRET, 16))

        def rotate(x, k):
            return (x << k | x >> (64 - k)) & M64
        h ^= rotate(h, 49) ^ rotate(h, 24)
        h = h * PMX2 & M64
        h ^= (h >> 35) + n
        h = h * PMX2 & M64
        return h ^ h >> 28
    low = u64(b, 0) ^ (u64(SECRET, 24) ^ u64(SECRET, 32))
    high = u64(b, n - 8) ^ (u64(SECRET, 40) ^ u64(SECRET, 48))
    swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
    return avalanche((n + swapped + high + fold(low, high)) & M64)


def hash_long(b):
    acc = [P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]]

    def stripe(at, secret_at):
        for i in range(8):
            value = u64(b, at + 8 * i)
            key = value ^ u64(SECRET, secret_at + 8 * i)
            acc[i ^ 1] = acc[i ^ 1] + value & M64
            acc[i] = acc[i] + (key & 0xFFFFFFFF) * (key >> 32) & M64
    per_block = (len(SECRET) - 64) // 8
    n_stripes = (len(b) - 1) // 64
    for s in range(n_stripes):
        stripe(64 * s, 8 * (s % per_block))
        if s % per_block == per_block - 1:
            for i in range(8):
                v = acc[i] ^ acc[i] >> 47 ^ u64(SECRET, len(SECRET) - 64 + 8 * i)
                acc[i] = v * P32[0] & M64
    stripe(len(b) - 64, len(SECRET) - 64 - 7)
    h = len(b) * P64[0]
    for i in range(4):
        h += fold(acc[2 * i] ^ u64(SECRET, 11 + 16 * i), acc[2 * i + 1] ^ u64(SECRET, 19 + 16 * i))
    return avalanche(h & M64)


def xxh3(b):
    n = len(b)
    if n <= 16:
        return hash_short(b)
    h = n * P64[0]
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            h += mix16(b, 16 * i, 32 * i) + mix16(b, n - 16 * (i + 1), 32 * i + 16)
        return avalanche(h & M64)
    if n <= 240:
        for i in range(8):
            h += mix16(b, 16 * i, 16 * i)
        h = avalanche(h & M64)
        for i in range(8, n // 16):
            h += mix16(b, 16 * i, 16 * (i - 8) + 3)
        return avalanche(h + mix16(b, n - 16, 136 - 17) & M64)
    return hash_long(b)


# ---- codecs (section 4) ----

def f32_round(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def decode_q8(row, cols):
    scales = struct.unpack_from("<%de" % (cols // 32), row, cols)
    return [q * scales[i // 32] for i, q in enumerate(struct.unpack_from("<%db" % cols, row))]


def decode_q4(row, cols):
    groups = cols // 32
    S, M = struct.unpack_from("<ff", row, cols // 2 + 2 * groups)
    out = []
    for g in range(groups):
        d = f32_round(S * row[cols // 2 + g])
        m = f32_round(M * row[cols // 2 + groups + g])
        nibbles = row[16 * g:16 * g + 16]
        for q in [b & 15 for b in nibbles] + [b >> 4 for b in nibbles]:
            out.append(f32_round(f32_round(q * d) - m))
    return out


# id: name, block, bytes of a row, row -> list of weights
CODECS = {
    1: ("f32", 1, lambda n: 4 * n, lambda r, n: struct.unpack("<%df" % n, r)),
    2: ("bf16", 1, lambda n: 2 * n, lambda r, n: struct.unpack(
        "<%df" % n, b"".join(b"\0\0" + r[i:i + 2] for i in range(0, 2 * n, 2)))),
    3: ("f16", 1, lambda n: 2 * n, lambda r, n: struct.unpack("<%de" % n, r)),
    4: ("q8", 32, lambda n: n + n // 16, decode_q8),
    5: ("q4", 32, lambda n: n // 2 + n // 16 + 8, decode_q4),
}


def decode_rows(data, codec, rows, cols):
    _, _, row_bytes, decode = CODECS[codec]
    step = row_bytes(cols)
    return b"".join(struct.pack("<%df" % cols, *decode(data[r * step:(r + 1) * step], cols))
                    for r in range(rows))


def weights_hash(data, codec, rows, cols):
    return "%016x" % xxh3(decode_rows(data, codec, rows, cols))


# ---- the file (sections 2, 3, 5, 6) ----

class Bad(Exception):
    pass


def need(ok, what):
    if not ok:
        raise Bad(what)


def up(n, a):
    return (n + a - 1) // a * a


SECTIONS = {1: "metadata", 2: "tokenizer", 3: "tensors", 4: "trunk", 5: "records", 6: "index",
            7: "provenance", 8: "license", 9: "predictors", 10: "conversations"}


def read_sections(f):
    need(f[:8] == b"CORM\r\n\x1a\n", "magic")
    (version, count, incompat, _, file_bytes, table, table_hash, shard, shards) = struct.unpack_from(
        "<IIQQQQQII", f, 8)
    need(version == 1, "version %d" % version)
    need(xxh3(f[:120]) == u64(f, 120), "header hash")
    need(incompat in (0, 1) and (shard, shards) == (0, 1), "features")
    need(file_bytes == len(f) and table + 32 * count == len(f), "size")
    need(not any(f[64:120]) and not any(f[128:4096]), "reserved bytes of the header")
    need(xxh3(f[table:]) == table_hash, "section table hash")
    sections, end = {}, 4096
    for i in range(count):
        kind, flags, offset, size, value = struct.unpack_from("<IIQQQ", f, table + 32 * i)
        need(offset == up(end, 4096) and offset + size <= table, "place of section %d" % kind)
        need(not any(f[end:offset]), "padding before section %d" % kind)
        need(flags in (0, 1) and (kind in SECTIONS or flags == 1), "section type %d" % kind)
        need(kind not in sections, "section %d twice" % kind)
        if kind in (4, 5):
            need(value == 0, "hash of section %d" % kind)
        else:
            need(xxh3(f[offset:offset + size]) == value, "hash of section %d" % kind)
        sections[kind] = (offset, size)
        end = offset + size
    need(table == up(end, 4096) and not any(f[end:table]), "place of the section table")
    return sections, incompat == 1


# Keys of the model, and what those that may be missing mean then.
MODEL_KEYS = {"family": None, "n_layers": None, "dim": None, "vocab": None, "ctx_max_tok": None, "norm_eps": None,
              "rope_dim": None, "rope_inv_freq": None, "rope_scale": None, "n_experts": None, "n_active": None,
              "ffn_dim": None, "tied": None, "stop_ids": (), "gen_temperature": (-1.0,), "gen_top_p": (-1.0,),
              "gen_top_k": (-1.0,), "gen_repeat_penalty": (-1.0,), "embed_scale": (1.0,), "logit_cap": (0.0,),
              "logit_scale": (0.0,), "norm": (0,), "head_bias": (0,), "ctx_limit_tok": (0,), "kv_layer": (), "rope_long_tok": (), "rope_long_scale": (), "rope_long_inv_freq": ()}
LAYER_KEYS = ("window", "moe")
# Keys of kinds: one value for all, or one for each kind.
KIND_KEYS = {"n_heads": None, "n_kv_heads": None, "head_dim": None, "qkv_bias": None, "o_bias": None, "qk_norm": None,
             "clip_qkv": None, "norm_topk": None, "dense_dim": None, "shared_dim": None, "shared_gate": None,
             "post_norm": 0, "dense_beside": 0, "layer_scale": 0, "branch_scale": 0.0, "mixer": 0, "qk_norm_late": 0, "v_norm": 0, "v_from_k": 0,
             "attn_gate": 0, "sinks": 0, "rope": 0, "attn_scale": 0.0, "delta_k_heads": 0, "delta_v_heads": 0,
             "delta_k_dim": 0, "delta_v_dim": 0, "delta_conv": 0, "latent_heads": 0, "latent_q_rank": 0,
             "latent_rank": 0, "latent_nope_dim": 0, "latent_rope_dim": 0, "latent_v_dim": 0, "latent_rope": 0,
             "latent_eps": 0.0, "latent_scale": 0.0, "latent_query_beta": 0.0, "latent_query_tok": 0,
             "route_input": 0, "route_score": 0,
             "route_logit_bias": 0, "route_selection_bias": 0, "route_groups": 0, "route_top_groups": 0,
             "route_group_score": 0, "route_factor": 0, "route_eps": 0.0, "route_scale": 1.0, "ffn_act": 0,
             "ffn_bias": 0, "ffn_limit": 0.0, "ffn_alpha": 0.0, "parallel": 0, "chunk": 0, "attn_temper": 0.0,
             "attn_temper_tok": 0.0, "route_by_logits": 0, "route_on_input": 0, "route_logit_cap": 0.0,
             "shared_scale": 0.0, "shared_limit": 0.0, "v_head_dim": 0, "v_scale": 0.0}


def read_metadata(b):
    entries, at = {}, 4
    for _ in range(u32(b, 0)):
        key_bytes, kind, count = struct.unpack_from("<HHI", b, at)
        key = b[at + 8:at + 8 + key_bytes].decode()
        at += 8 + key_bytes
        if kind == 3:
            value = b[at:at + count].decode()
            at += count
        else:
            value = struct.unpack_from("<%d%s" % (count, {1: "I", 2: "f"}[kind]), b, at)
            at += 4 * count
        need(key not in entries, "key %s twice" % key)
        entries[key] = value
    need(at == len(b), "end of the metadata")
    return entries


def complete(m):
    """Fill in what is missing, and the kind of each layer; refuse what this document does not know."""
    for key in m:
        need(key in MODEL_KEYS or key in LAYER_KEYS or key in KIND_KEYS or key == "kind" or
             key.startswith("info."), "unknown key " + key)
    for key, value in MODEL_KEYS.items():
        need(key in m or value is not None, "key %s is missing" % key)
        m.setdefault(key, value)
    layers = range(m["n_layers"][0])
    for key in LAYER_KEYS:
        need(len(m[key]) == len(layers), "values of " + key)
    if "kind" not in m:
        kinds = []
        for la in layers:
            same = [e for e in range(la) if all(m[key][e] == m[key][la] for key in LAYER_KEYS)]
            kinds.append(kinds[same[0]] if same else max(kinds, default=-1) + 1)
        m["kind"] = tuple(kinds)
    need(len(m["kind"]) == len(layers), "values of kind")
    for la in layers:
        for e in range(la):
            need(m["kind"][e] != m["kind"][la] or all(m[key][e] == m[key][la] for key in LAYER_KEYS),
                 "layers %d and %d are of one kind" % (e, la))
    n_kinds = max(m["kind"]) + 1
    for key, value in KIND_KEYS.items():
        need(key in m or value is not None, "key %s is missing" % key)
        m.setdefault(key, (value,))
        need(len(m[key]) in (1, n_kinds), "values of " + key)
    need(len(m["rope_scale"]) == len(m["rope_dim"]), "values of rope_scale")
    need(len(m["rope_inv_freq"]) == sum(m["rope_dim"]) // 2, "values of rope_inv_freq")
    long = len(m["rope_long_tok"])
    need(long in (0, len(m["rope_dim"])) and len(m["rope_long_scale"]) == long, "values of rope_long_tok")
    need(len(m["rope_long_inv_freq"]) == (len(m["rope_inv_freq"]) if long else 0), "values of rope_long_inv_freq")
    need(len(m["kv_layer"]) in (0, len(layers)), "values of kv_layer")


def layer_values(m, layer):
    """All numbers of a layer."""
    kind = m["kind"][layer]
    values = {key: m[key][kind if len(m[key]) > 1 else 0] for key in KIND_KEYS}
    values.update({key: m[key][layer] for key in LAYER_KEYS})
    return values


# id, name, rows, cols, is f32; without rows there is none
def model_slots(m):
    dim, vocab = m["dim"][0], m["vocab"][0]
    return [(0, "embed", vocab, dim, False), (1, "out_norm", 1, dim, True),
            (2, "head", 0 if m["tied"][0] else vocab, dim, False),
            (47, "out_norm_bias", int(m["norm"][0] == 2), dim, True), (50, "head_bias", m["head_bias"][0], vocab, True)]


def layer_slots(m, layer):
    k, dim, experts, ffn = layer_values(m, layer), m["dim"][0], m["n_experts"][0], m["ffn_dim"][0]
    q, kv, norm, moe = k["n_heads"] * k["head_dim"], k["n_kv_heads"] * k["head_dim"], k["qk_norm"], k["moe"]
    value = k["v_head_dim"] or k["head_dim"]
    v, out = k["n_kv_heads"] * value, k["n_heads"] * value
    attends, delta, latent = k["mixer"] == 0, k["mixer"] == 1, k["mixer"] == 2
    heads, rank, q_rank = latent * k["latent_heads"], k["latent_rank"], k["latent_q_rank"]
    own = attends and (not m["kv_layer"] or m["kv_layer"][layer] == layer)
    values = own and not k["v_from_k"]
    mlp = k["shared_dim"] if moe else k["dense_dim"]
    v_heads = k["delta_v_heads"]
    d_v = v_heads * k["delta_v_dim"]
    d_qkv = 2 * k["delta_k_heads"] * k["delta_k_dim"] + d_v
    beside = moe and k["dense_beside"]
    gates = k["n_heads"] if k["attn_gate"] in (2, 4) else out
    attn_norm, biases = int(k["post_norm"] != 2), int(m["norm"][0] == 2)
    behind, ffn_behind = int(k["post_norm"] in (1, 2)), int(k["post_norm"] > 0)
    ffn_norm = attn_norm * (1 - k["parallel"])
    return [(3, "attn_norm", attn_norm, dim, True), (4, "q", attends * q, dim, False), (5, "k", own * kv, dim, False),
            (6, "v", values * v, dim, False), (7, "o", attends * dim, out, False),
            (8, "q_bias", attends * k["qkv_bias"], q, True), (9, "k_bias", own * k["qkv_bias"], kv, True),
            (10, "v_bias", values * k["qkv_bias"], v, True), (11, "o_bias", attends * k["o_bias"], dim, True),
            (12, "q_norm", attends * (norm in (1, 2)), k["head_dim"] if norm == 1 else q, True),
            (13, "k_norm", own * (norm in (1, 2)), k["head_dim"] if norm == 1 else kv, True),
            (14, "ffn_norm", ffn_norm, dim, True), (15, "router", moe * experts, dim, False),
            (16, "mlp_gate", mlp, dim, False), (17, "mlp_up", mlp, dim, False),
            (18, "mlp_down", dim if mlp else 0, mlp, False), (19, "mlp_switch", moe * k["shared_gate"], dim, True),
            (23, "attn_gate", attends * (k["attn_gate"] > 0) * gates, dim, False),
            (24, "sinks", attends * k["sinks"], k["n_heads"], True),
            (25, "attn_post_norm", behind, dim, True), (26, "ffn_post_norm", ffn_behind, dim, True),
            (27, "mlp_norm", beside, dim, True), (28, "mlp_post_norm", beside, dim, True),
            (29, "moe_post_norm", beside, dim, True),
            (30, "router_norm", moe * (k["route_input"] == 1), dim, True),
            (31, "router_bias", moe * k["route_logit_bias"], experts, True),
            (32, "router_select", moe * k["route_selection_bias"], experts, True),
            (33, "router_factor", moe * k["route_factor"], experts, True),
            (34, "expert_gate_bias", moe * k["ffn_bias"] * experts, ffn, True),
            (35, "expert_up_bias", moe * k["ffn_bias"] * experts, ffn, True),
            (36, "expert_down_bias", moe * k["ffn_bias"] * experts, dim, True),
            (37, "layer_scale", k["layer_scale"], 1, True), (38, "delta_qkv", delta * d_qkv, dim, False),
            (39, "delta_z", delta * d_v, dim, False), (40, "delta_b", delta * v_heads, dim, False),
            (41, "delta_a", delta * v_heads, dim, False),
            (42, "delta_conv", delta * d_qkv, k["delta_conv"], True),
            (43, "delta_rate", delta * 1, v_heads, True), (44, "delta_dt_bias", delta * 1, v_heads, True),
            (45, "delta_norm", delta * 1, k["delta_v_dim"], True), (46, "delta_out", delta * dim, d_v, False),
            (48, "attn_norm_bias", attn_norm * biases, dim, True), (49, "ffn_norm_bias", ffn_norm * biases, dim, True),
            (51, "latent_q_a", latent * q_rank, dim, False), (52, "latent_q_norm", latent * (q_rank > 0), q_rank, True),
            (53, "latent_q_nope", heads * k["latent_nope_dim"], q_rank or dim, False),
            (54, "latent_q_rope", heads * k["latent_rope_dim"], q_rank or dim, False),
            (55, "latent_kv", latent * rank, dim, False), (56, "latent_kv_norm", latent * 1, rank, True),
            (57, "latent_k_rope", latent * k["latent_rope_dim"], dim, False),
            (58, "latent_k_up", heads * rank, k["latent_nope_dim"], False),
            (59, "latent_v_up", heads * k["latent_v_dim"], rank, False),
            (60, "latent_out", latent * dim, heads * k["latent_v_dim"], False)]


def read_trunk(f, m, table, trunk):
    at, end = table[0], trunk[0]
    for layer in [None] + list(range(m["n_layers"][0])):
        for slot, name, rows, cols, exact in model_slots(m) if layer is None else layer_slots(m, layer):
            if rows == 0:
                continue
            need(at + 48 <= sum(table), "number of tensors")
            got = struct.unpack_from("<IIIIIIQQQ", f, at)
            codec, offset, size = got[2], got[6], got[7]
            what = "tensor %s of layer %s" % (name, layer)
            need(got[:2] == (slot, 0xFFFFFFFF if layer is None else layer), what + ": order")
            need(got[3:6] == (rows, cols, 0) and codec in CODECS, what + ": shape")
            need(not exact or codec == 1, what + ": codec")
            need(cols % CODECS[codec][1] == 0, what + ": codec")
            need(size == rows * CODECS[codec][2](cols), what + ": size")
            need(offset == up(end, 64) and not any(f[end:offset]), what + ": place")
            data = f[offset:offset + size]
            need(xxh3(data) == got[8], what + ": hash")
            print("tensor", "-" if layer is None else layer, name, CODECS[codec][0], rows, cols,
                  weights_hash(data, codec, rows, cols))
            at, end = at + 48, offset + size
    need(at == sum(table) and end == sum(trunk), "end of the trunk")


def unzstd(frame):
    return subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True).stdout


def decode_list(stored, at, m):
    end = at + up(m, 64) // 4
    need(end <= len(stored), "size of a list of codes")
    codes = []
    for pair in range(at, end, 16):
        low, high = struct.unpack_from("<QQ", stored, pair)
        codes += [(low >> j & 1) + 2 * (high >> j & 1) for j in range(64)]
    need(not any(codes[m:]), "bits behind a list of codes")
    return codes[:m], end


def decode_exponents(stored, n):
    n2, n3, n4 = struct.unpack_from("<III", stored)
    common = stored[12:21]
    need(not any(stored[21:64]), "reserved bytes of a chunk of exponents")
    first, at = decode_list(stored, 64, n)
    second, at = decode_list(stored, at, n2)
    third, at = decode_list(stored, at, n3)
    start = up(at + n4, 64)
    need(len(stored) == start + up(n, 64), "size of a chunk of exponents")
    need(not any(stored[at + n4:start]) and not any(stored[start + n:]), "padding of exponents")
    need([codes.count(3) for codes in (first, second, third)] == [n2, n3, n4], "numbers of codes")
    lists, literals, high = [iter(first), iter(second), iter(third)], iter(stored[at:at + n4]), []
    for _ in range(n):
        for number, codes in enumerate(lists):
            c = next(codes)
            if c < 3:
                high.append(common[3 * number + c])
                break
        else:
            high.append(next(literals))
    return stored[start:start + n], high


def decode_chunk(stored, encoding, codec, raw_bytes):
    if encoding == 0:
        return stored
    if encoding == 1 and codec not in (2, 3):
        return unzstd(stored)
    n = raw_bytes // 2
    if encoding == 3 and codec == 2:
        low, high = decode_exponents(stored, n)
    else:
        need(encoding == 2 and codec in (2, 3), "encoding %d" % encoding)
        low, high = stored[:n], unzstd(stored[n:])
    need(len(high) == n, "size of the high plane")
    out = []
    for lo, hi in zip(low, high):
        v = hi << 8 | lo
        out.append(v >> 1 | (v & 1) << 15 if codec == 2 else v)
    return struct.pack("<%dH" % n, *out)


def read_records(f, m, index, records, mixed):
    base = index[0]
    n_records, n_chunks, codec, step = struct.unpack_from("<IIII", f, base)
    need(not any(f[base + 16:base + 32]), "reserved bytes of the index")
    need(index[1] == 32 + 8 * n_records + 32 * n_chunks, "size of the index")
    dim, ffn, experts = m["dim"][0], m["ffn_dim"][0], m["n_experts"][0]
    need(codec in CODECS or (mixed and codec == 0 and n_chunks > 0), "codec of the index")
    places = [(la, ex) for la in range(m["n_layers"][0]) if m["moe"][la] for ex in range(experts)]
    need(len(places) == n_records, "number of records")
    chunk, end = 0, records[0]
    for r, (layer, expert) in enumerate(places):
        first, count, hot = struct.unpack_from("<IHH", f, base + 32 + 8 * r)
        need((first, count) == (chunk, -(-ffn // step)) and hot <= count, "record %d" % r)
        raw, weights, names, align = b"", b"", [], 4096
        for i in range(count):
            offset, stored_bytes, neurons, encoding, own, value = struct.unpack_from(
                "<QIIIIQ", f, base + 32 + 8 * n_records + 32 * chunk)
            what = "layer %d expert %d chunk %d" % (layer, expert, i)
            need(neurons == min(step, ffn - i * step), what)
            need(own in CODECS if mixed else own == 0, what + ": codec")
            own = own if mixed else codec
            neuron_bytes = 3 * CODECS[own][2](dim)
            need(offset == up(end, align) and not any(f[end:offset]), what + ": place")
            stored = f[offset:offset + stored_bytes]
            need(xxh3(stored) == value, what + ": hash")
            part = decode_chunk(stored, encoding, own, neurons * neuron_bytes)
            need(len(part) == neurons * neuron_bytes, what + ": size")
            raw += part
            weights += decode_rows(part, own, 3 * neurons, dim)
            names.append(CODECS[own][0])
            chunk, end, align = chunk + 1, offset + stored_bytes, 64
        print("record", layer, expert, "+".join(names) if mixed else CODECS[codec][0], "hot", hot,
              "of", count, "%016x" % xxh3(raw), "%016x" % xxh3(weights))
    need(chunk == n_chunks and end == sum(records), "end of the records")


def read_conversations(data):
    (n,), at, seen = struct.unpack_from("<I", data), 4, set()
    need(n <= 4096, "entries of conversations")
    for _ in range(n):
        kind, name_bytes, text_bytes = struct.unpack_from("<HHI", data, at)
        name, text = data[at + 8:at + 8 + name_bytes], data[at + 8 + name_bytes:at + 8 + name_bytes + text_bytes]
        at += 8 + name_bytes + text_bytes
        need(at <= len(data), "an entry of conversations")
        if kind in (1, 2, 3):
            need(name_bytes == 0 if kind == 3 else 1 <= name_bytes <= 64, "a name of conversations")
            need(kind == 3 or (kind, name) not in seen, "a name of conversations twice")
            need(name.decode().isprintable(), "a control character in a name of conversations")
            text.decode()
            seen.add((kind, name))
    need(at == len(data), "bytes behind the entries of conversations")


def main(path):
    with open(path, "rb") as file:
        f = file.read()
    s, mixed = read_sections(f)
    for kind in (1, 3, 4, 5, 6):
        need(kind in s, "section %s is missing" % SECTIONS[kind])
    m = read_metadata(f[s[1][0]:sum(s[1])])
    complete(m)
    for key in sorted(MODEL_KEYS):
        data = m[key].encode() if isinstance(m[key], str) else b"".join(
            struct.pack("<I" if isinstance(v, int) else "<f", v) for v in m[key])
        print("metadata", key, "%016x" % xxh3(data))
    for layer in range(m["n_layers"][0]):
        print("layer", layer, *("%s=%.9g" % pair for pair in sorted(layer_values(m, layer).items())))
    read_trunk(f, m, s[3], s[4])
    read_records(f, m, s[6], s[5], mixed)
    if 10 in s:
        read_conversations(f[s[10][0]:sum(s[10])])
    for kind in (2, 7, 8, 9, 10):
        if kind in s:
            print("section", SECTIONS[kind], s[kind][1], "%016x" % xxh3(f[s[kind][0]:sum(s[kind])]))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (Bad, struct.error, KeyError, UnicodeError, OSError, subprocess.CalledProcessError) as e:
        sys.exit("read_corm.py: %s: %s" % (sys.argv[1], e))
