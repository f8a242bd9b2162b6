"""Weights that are made and not stored: the generator of tests/golden/families, as README.md defines it.

tests/util/test_util_family.c makes the same bytes. A checkpoint is a list of tensors (`tensors.txt`); a
tensor's numbers depend on the seed, its name and the place in it, and on nothing else.
"""
import json
import struct
from typing import NamedTuple

import numpy as np
import torch

WORD = {"U8": 1, "BF16": 2, "F16": 2, "F32": 4}
NIBBLES_STD = 340**0.5  # of the sum of 16 uniform nibbles
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
GOLDEN_RATIO = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


class Tensor(NamedTuple):
    """A line of tensors.txt."""

    name: str
    dtype: str
    kind: str
    scale: int
    offset: int
    shape: tuple


def normal(name, shape, std, mean=0.0, dtype="BF16"):
    """About normal, of a standard deviation as near to `std` as a power of two allows."""
    scale = round(np.log2(std / NIBBLES_STD))
    offset = round(mean * 2.0**-scale)
    # At most 8 significant bits and no smaller unit than f16 has: the same numbers in bf16, f16 and f32.
    assert abs(offset) + 120 < 256 and scale >= -24, name
    return Tensor(name, dtype, "normal", scale, offset, tuple(shape))


def bits(name, shape, n_bits, least=0):
    """Bytes, uniform from `least` to least + 2**n_bits - 1."""
    assert least + 2**n_bits <= 256, name
    return Tensor(name, "U8", "bits", n_bits, least, tuple(shape))


# ---- the generator ----


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def splitmix(start, count):
    """The first `count` numbers of splitmix64 that starts at `start`."""
    z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_RATIO)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def raw_numbers(t, seed):
    start = splitmix(fnv1a(t.name) ^ seed, 1)[0]
    return splitmix(start, int(np.prod(t.shape)))


def values(t, seed):
    """The tensor's numbers: uint8 of kind `bits`, float32 of kind `normal`."""
    u = raw_numbers(t, seed)
    if t.kind == "bits":
        return (t.offset + (u & np.uint64(2**t.scale - 1)).astype(np.int64)).astype(np.uint8).reshape(t.shape)
    total = np.full(u.shape, t.offset - 120, np.int64)
    for nibble in range(16):
        total += (u >> np.uint64(4 * nibble) & np.uint64(15)).astype(np.int64)
    return np.ldexp(total.astype(np.float32), t.scale).reshape(t.shape)


def file_bytes(t, seed):
    v = values(t, seed)
    if t.dtype == "BF16":
        word = np.ascontiguousarray(v).view(np.uint32)
        assert not (word & 0xFFFF).any(), t.name
        return (word >> 16).astype("<u2").tobytes()
    return v.astype({"U8": "u1", "F16": "<f2", "F32": "<f4"}[t.dtype]).tobytes()


# ---- files ----


def write_list(path, seed, tensors):
    lines = [f"seed {seed}"]
    for t in tensors:
        lines.append(" ".join(map(str, (*t[:5], *t.shape))))
    path.write_text("\n".join(lines) + "\n")


def read_list(path):
    """(seed, tensors)"""
    first, *lines = path.read_text().splitlines()
    tensors = []
    for line in lines:
        name, dtype, kind, *numbers = line.split()
        scale, offset, *shape = map(int, numbers)
        tensors.append(Tensor(name, dtype, kind, scale, offset, tuple(shape)))
    return int(first.split()[1]), tensors


def write_safetensors(path, entries):
    """Tensors (name, dtype, shape, bytes), in this order and without gaps; the header ends at a multiple of 8."""
    header, at = [], 0
    for name, dtype, shape, data in entries:
        assert len(data) == WORD[dtype] * int(np.prod(shape)), name
        about = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        header.append(f'"{name}":' + json.dumps(about, separators=(",", ":")))
        at += len(data)
    text = "{" + ",".join(header) + "}"
    text += " " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text.encode())
        for entry in entries:
            f.write(entry[3])


def write_checkpoint(path, seed, tensors):
    write_safetensors(path, [(t.name, t.dtype, t.shape, file_bytes(t, seed)) for t in tensors])


# ---- MXFP4 ----


def dequantise(blocks, scales):
    """[..., groups, 16] and [..., groups] bytes -> [..., groups * 32] f32."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    v = E2M1[codes & 7] * np.where(codes & 8, np.float32(-1), np.float32(1))
    v = np.ldexp(v, scales.astype(np.int32)[..., None] - 127)
    return v.reshape(*v.shape[:-2], -1)


def write_plain_checkpoint(path, seed, tensors):
    """The same weights for transformers, which is to compute in f32: each pair of MXFP4 tensors as the one F32
    tensor [experts, in, out] that it stands for."""
    entries, scales = [], {t.name: t for t in tensors if t.name.endswith("_scales")}
    for t in tensors:
        if t.name.endswith("_blocks"):
            name = t.name.removesuffix("_blocks")
            v = dequantise(values(t, seed), values(scales[name + "_scales"], seed)).transpose(0, 2, 1)
            assert np.array_equal(torch.from_numpy(v.copy()).bfloat16().float().numpy(), v)
            entries.append((name, "F32", v.shape, v.astype("<f4").tobytes()))
        elif t.name not in scales:
            entries.append((t.name, t.dtype, t.shape, file_bytes(t, seed)))
    write_safetensors(path, entries)
