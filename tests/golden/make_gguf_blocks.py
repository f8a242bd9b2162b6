#!/usr/bin/env python3
"""Make gguf_blocks.safetensors: blocks of each type of GGUF, and the numbers that they stand for.

    make_gguf_blocks.py              # write the file
    make_gguf_blocks.py N FILE       # N blocks of each type to another file, for one large comparison

Of each TYPE: TYPE.blocks, bytes, and TYPE.want, F32: what dequantize of the gguf package makes of them. Codes are
random; halves that are scales are zero, the least, the greatest, or anything finite. Developer-only; needs numpy,
safetensors and gguf 0.19.
"""
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent / "gguf_blocks.safetensors"
# Types, and where their halves are.
TYPES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
         "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}
EXTREME = [0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0xfbff, 0x3c00]


def blocks_of(name, n, rng):
    kind = gguf.GGMLQuantizationType[name]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (n, size), np.uint8)
    for at in TYPES[name]:
        halves = rng.integers(0, 0x7c00, n).astype(np.uint16) | rng.integers(0, 2, n).astype(np.uint16) << 15
        halves[:n // 2] = rng.choice(EXTREME, n // 2)
        blocks[:, at:at + 2] = halves[:, None].view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = np.resize([0, 1, 2, 127, 254, 255, 120, 130], n)
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(blocks, kind).astype(np.float32)
    return blocks, want


def main():
    n, out = (int(sys.argv[1]), pathlib.Path(sys.argv[2])) if len(sys.argv) == 3 else (6, OUT)
    rng = np.random.default_rng(20)
    tensors = {}
    for name in TYPES:
        tensors[f"{name}.blocks"], tensors[f"{name}.want"] = blocks_of(name, n, rng)
    save_file(tensors, out)
    out.chmod(0o644)
    print(out, out.stat().st_size)


if __name__ == "__main__":
    main()
