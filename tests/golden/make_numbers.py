#!/usr/bin/env python3
"""Make numbers.safetensors: quantised tensors as checkpoints have them, and what they stand for.

    make_numbers.py

A case NAME is NAME.weight (or NAME.weight_packed, NAME.weight_blocks) with its scales, and NAME.want in F32: what
transformers or compressed-tensors makes of the same bytes, asked for f32; but for `multiplied`, which is a formula of
another program written down again here, and `divided`, which is put together from functions of compressed-tensors.
Developer-only; needs the packages in
requirements.txt and compressed-tensors 0.20.
"""
import pathlib

import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

OUT = pathlib.Path(__file__).parent / "numbers.safetensors"
E2M1 = torch.tensor(Fp8Dequantize._FP4_E2M1_LUT)


def codes(shape, generator):
    """Bytes without the two that are no numbers in E4M3."""
    b = torch.randint(0, 254, shape, generator=generator, dtype=torch.uint8)
    return torch.where(b < 127, b, b + 1)


def scales(shape, generator, least=0.002):
    return least * (1 + 9 * torch.rand(shape, generator=generator))


def transformers_fp8(case, weight, scale):
    want = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.float32)
    return {f"{case}.weight": weight, f"{case}.weight_scale_inv": scale, f"{case}.want": want}


def blocks_fp8(case, weight, scale, size):
    want = FP8BlockDequantizer(weight_block_size=size, dtype=torch.float32)._create_dequantized_weight(weight, scale)
    return {f"{case}.weight": weight, f"{case}.weight_scale_inv": scale, f"{case}.want": want}


def compressed(case, compressor, state, **args):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(symmetric=True, type="float", **args))
    want = compressor.decompress(dict(state), scheme)["weight"].float()
    return {f"{case}.{name}": t for name, t in state.items()} | {f"{case}.want": want}


def divided(case, packed, scale, global_scale):
    """As NVFP4PackedCompressor.decompress has it: its own functions, asked for f32 where it asks for bf16."""
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    numbers = unpack_fp4_from_uint8(packed, packed.shape[0], 2 * packed.shape[1], dtype=torch.float32)
    want = dequantize(numbers, scale.float(), args=args, global_scale=global_scale, dtype=torch.float32)
    return {f"{case}.weight_packed": packed, f"{case}.weight_scale": scale,
            f"{case}.weight_global_scale": global_scale, f"{case}.want": want}


def modelopt(case, packed, scale, scale_2):
    """The formula of NVFP4QTensor.dequantize of nvidia-modelopt 0.47, in f32; that program is not run."""
    low, high = E2M1[(packed & 15).long()], E2M1[(packed >> 4).long()]
    numbers = torch.stack([low, high], dim=-1).reshape(packed.shape[0], -1, 16)
    want = (numbers * (scale.float() * scale_2)[..., None]).reshape(packed.shape[0], -1)
    return {f"{case}.weight": packed, f"{case}.weight_scale": scale, f"{case}.weight_scale_2": scale_2,
            f"{case}.want": want}


def main():
    g = torch.Generator().manual_seed(5)
    e4m3 = torch.float8_e4m3fn
    weight = lambda *shape: codes(shape, g).view(e4m3)
    nibbles = lambda *shape: torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    positive = lambda *shape: torch.randint(1, 127, shape, generator=g, dtype=torch.uint8).view(e4m3)
    powers = lambda *shape: torch.randint(118, 130, shape, generator=g, dtype=torch.uint8)
    every = torch.tensor([b for b in range(256) if b & 127 != 127], dtype=torch.uint8).view(e4m3).reshape(2, 127)
    out = {}
    out |= transformers_fp8("codes", every, torch.tensor(1.0))
    out |= transformers_fp8("blocks", weight(24, 40), scales((3, 5), g))
    out |= transformers_fp8("tensor", weight(9, 13), scales((), g))
    out |= transformers_fp8("experts", weight(3, 8, 20), scales((3, 2, 5), g))
    out |= transformers_fp8("halves", weight(8, 24), scales((2, 3), g).bfloat16())
    out |= transformers_fp8("powers", weight(8, 24), powers(2, 3).view(torch.float8_e8m0fnu))
    out |= transformers_fp8("bytes", weight(8, 24), powers(2, 3))
    out |= blocks_fp8("partial", weight(21, 37), scales((3, 3), g), (8, 16))
    fp8 = {"weight": weight(7, 24), "weight_scale": scales((7, 1), g)}
    out |= compressed("rows", NaiveQuantizationCompressor, fp8, num_bits=8, strategy="channel")
    out |= divided("divided", nibbles(6, 24), positive(6, 3), torch.tensor([371.7]))
    out |= modelopt("multiplied", nibbles(6, 24), positive(6, 3), torch.tensor(0.0037))
    mxfp4 = {"weight_packed": nibbles(5, 32), "weight_scale": powers(5, 2)}
    out |= compressed("groups", MXFP4PackedCompressor, mxfp4, num_bits=4, strategy="group", group_size=32)
    moe = nibbles(2, 6, 2, 16), powers(2, 6, 2)
    want = convert_moe_packed_tensors(*moe, dtype=torch.float32).transpose(1, 2)
    out |= {"moe.weight_blocks": moe[0], "moe.weight_scales": moe[1], "moe.want": want}
    save_file({name: t.contiguous() for name, t in out.items()}, OUT)
    OUT.chmod(0o644)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
