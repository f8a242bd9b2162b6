#!/usr/bin/env python3
"""Make the golden vectors of tests/golden/families and the counts of tests/golden/configs. Developer-only.

    make_families.py make [NAME...]        search for seeds, write the folders (all, or the named ones)
    make_families.py verify [NAME...]      run everything again from the folders, compare
    make_families.py checkpoint NAME DIR   write the checkpoint that a folder describes, as the C tests do
    make_families.py counts                params.txt of families/ and configs/

Needs the packages in requirements.txt. README.md beside this file says what is in the folders;
families.py has the configurations, family_weights.py the generator of the weights.
"""
import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer

import kin
import oracle
import families
from families_latent import LATENT
from family_weights import read_list, write_checkpoint, write_list, write_plain_checkpoint
from oracle import HERE

FAMILIES = families.FAMILIES | LATENT
OUT = HERE / "families"
CONFIGS = HERE / "configs"
TOKENIZER = HERE / "models/qwen3moe-tiny"

T = 72  # over the window and a batch of 16, over YaRN's original length, over a chunk of the delta rule (64)
N_NEW = 48
TAP_ROWS = [0, 13, 40, T - 1]
LOGIT_ROWS = TAP_ROWS
VERIFY_TOLERANCE = 1e-4
COLUMNS = ["seed", "router_gap", "logit_gap", "logit_std", "noise", "f16_kv", "bytes"]


def write_json(path, obj):
    path.write_text(json.dumps(obj, indent=1) + "\n")


def text_config(config):
    """The text model's part of a configuration."""
    config = config.get("thinker_config", config)
    return config.get("text_config", config)


def n_parameters(config):
    """Of the text decoder with its head, without vision and without prediction of further tokens."""
    config, besides = kin.config_of(config.get("thinker_config", config))
    config = transformers.AutoConfig.for_model(**config)
    whole = oracle.auto_class(config.get_text_config()) is not transformers.AutoModelForCausalLM
    config = config if whole else config.get_text_config()
    with torch.device("meta"):
        model = oracle.auto_class(config).from_config(config)
    model.tie_weights()
    if not whole:
        # Without what nothing learns: the bias of ernie4_5_moe and afmoe for the choice of experts is such a
        # parameter, which other families have in a buffer.
        # And without indexers, which choose all in the contexts that are supported.
        besides += sum(p.numel() for name, p in model.named_parameters() if ".indexer." in name)
        return model.num_parameters(only_trainable=True) - besides
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    return oracle.decoder(model).num_parameters() + (0 if tied else head.numel())


def n_unused(config):
    """Parameters of the routed experts that a token does not use, counted from the configuration's keys."""
    text = text_config(config)
    text = text | text.get("attn_config", {}) | text.get("ffn_config", {})
    text = {"num_hidden_layers": text.get("n_layers"), "hidden_size": text.get("d_model")} | text
    get = lambda *keys: next(text[k] for k in keys if k in text)
    width = get("moe_intermediate_size", "ffn_hidden_size", "moe_ffn_hidden_size", "intermediate_size")
    expert = 3 * (width[0] if isinstance(width, list) else width) * text["hidden_size"]
    if text["model_type"] == "gpt_oss":
        expert += 2 * width + text["hidden_size"]
    types = text.get("mlp_layer_types") or ["sparse"] * text["num_hidden_layers"]
    last = text.get("moe_layer_end_index", -1) % text["num_hidden_layers"]
    step = text.get("decoder_sparse_step", text.get("moe_layer_interval", text.get("interleave_moe_layer_step", 1)))
    enum = text.get("moe_layers_enum")
    enum = [int(l) for l in enum.split(",")] if enum else range(text["num_hidden_layers"])
    flags = text.get("moe_layer_freq")  # mimo_v2_flash has a list of them
    dense = [l for l in range(text["num_hidden_layers"])
             if (l + 1) % step or l not in enum or (isinstance(flags, list) and not flags[l])
             or l in (text.get("mlp_only_layers") or []) or types[l] == "dense" or l > last
             or l < max(text.get(k, 0) for k in ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"))
             or (l == 0 and text["model_type"] == "hy_v3")]
    active = get("num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "moe_top_k",
                 "moe_num_active_primary_experts")
    unused = get("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "moe_num_primary_experts")
    unused -= active[0] if isinstance(active, list) else active
    return unused * expert * (text["num_hidden_layers"] - len(dense))


def counts_line(config):
    n = n_parameters(config)
    return f"{n} {n - n_unused(config)}\n"


# ---- running ----


def write_oracle(spec, seed, tensors, path):
    """The checkpoint for transformers in folder `path`: no MXFP4."""
    config = spec["config"] | spec.get("oracle", {})
    write_json(path / "config.json", kin.config_of(config)[0])
    write_plain_checkpoint(path / "model.safetensors", seed, tensors)
    plain = safetensors.torch.load_file(path / "model.safetensors")
    safetensors.torch.save_file(kin.tensors_of(config, plain), path / "model.safetensors", {"format": "pt"})


def clipped(config, model, taps):
    """Parts of gate and up (of the chosen experts) that swiglu_limit changes, over all layers."""
    limit, parts = config["swiglu_limit"], {"gate": [], "up": []}
    for i, layer in enumerate(oracle.decoder(model).layers):
        ids, x, e = taps[f"l{i}.expert_ids"].long(), taps[f"l{i}.ffn_in"], layer.mlp.experts
        for k in range(ids.shape[1]):
            y = torch.einsum("ti,tio->to", x, e.gate_up_proj[ids[:, k]]) + e.gate_up_proj_bias[ids[:, k]]
            parts["gate"].append(y[:, ::2] > limit)
            parts["up"].append(y[:, 1::2].abs() > limit)
    return {name: torch.cat(p).float().mean().item() for name, p in parts.items()}


def cut_off(config, model, taps):
    """The same of step3p7's limits, which are by layer, of routed and of shared experts and dense layers."""
    parts = {}
    for i, layer in enumerate(oracle.decoder(model).layers):
        x, mlp = taps[f"l{i}.ffn_in"], layer.mlp
        limit = config["swiglu_limits"][i]
        if f"l{i}.expert_ids" in taps and limit:
            both = torch.einsum("ti,teoi->teo", x, mlp.experts.gate_up_proj[taps[f"l{i}.expert_ids"].long()])
            gate, up = both.chunk(2, dim=-1)
            parts |= {f"l{i} gate": torch.nn.functional.silu(gate) > limit, f"l{i} up": up.abs() > limit}
        limit, mlp = config["swiglu_limits_shared"][i], getattr(mlp, "shared_experts", mlp)
        if limit:
            gate, up = torch.nn.functional.silu(mlp.gate_proj(x)), mlp.up_proj(x)
            parts |= {f"l{i} shared gate": gate > limit, f"l{i} shared up": up.abs() > limit}
    return {name: p.float().mean().item() for name, p in parts.items()}


def other_choices(model, taps):
    """Parts of the rows, over all layers, for which other experts were best without the bias, and without groups
    where there are several."""
    parts = {"bias": [], "groups": []}
    for i, layer in enumerate(oracle.decoder(model).layers):
        if f"l{i}.router" in taps:
            logits, chosen = taps[f"l{i}.router"], taps[f"l{i}.expert_ids"].sort().values
            without, bias = {}, oracle.selection_bias(layer)
            if bias is not None:
                without["bias"] = oracle.biased_scores(layer, logits, bias=0)[0]
            if oracle.n_groups(layer) > 1:
                without["groups"] = oracle.scores_of(layer, logits) + (0 if bias is None else bias)
            for name, scores in without.items():
                best = scores.topk(chosen.shape[1]).indices.sort().values
                parts[name].append((best != chosen).any(dim=-1))
    return {name: torch.cat(p).float().mean().item() for name, p in parts.items() if p}


def check_axes(rotary):
    """Positions with three axes, as in text all the same, turn as one axis does, to the bit; others do not."""
    positions = torch.arange(4096)[None]
    freqs = positions[..., None].float() * rotary.inv_freq
    plain = torch.cat((freqs, freqs), dim=-1)
    text = positions[None].repeat(3, 1, 1)
    for got, want in zip(rotary(freqs, text), (plain.cos(), plain.sin())):
        assert torch.equal(got, want * rotary.attention_scaling), "text is not turned as by plain RoPE"
    text[1] += 1
    assert not torch.equal(rotary(freqs, text)[0], plain.cos()), "the second axis turns nothing"


def check_special(spec, model, taps):
    """Each checkpoint must really exercise what it is there for."""
    config = text_config(spec["config"])
    rotary = oracle.decoder(model).rotary_emb
    with torch.no_grad():
        if hasattr(rotary, "mrope_section"):
            check_axes(rotary)
        if "swiglu_limit" in config:
            for name, part in clipped(config, model, taps).items():
                assert 0.01 < part < 0.30, f"clips {part:.2f} of {name}"
        if "swiglu_limits" in config:
            for name, part in cut_off(config, model, taps).items():
                assert 0.01 < part < 0.7, f"cuts off {part:.2f} of {name}"
        if any(oracle.chooses_by_scores(layer) for layer in oracle.decoder(model).layers):
            for name, part in other_choices(model, taps).items():
                assert part > 0.1, f"the choice is another in {part:.2f} of the rows because of {name}"
        if "final_logit_softcapping" in config:
            part = (taps["logits"].abs() / config["final_logit_softcapping"] > 0.5).float().mean().item()
            assert 0.05 < part < 0.5, f"the soft cap is felt by {part:.2f} of the logits"


def make_try(spec, seed):
    tensors = spec["tensors"](spec["config"])
    skipped = spec.get("skipped", ())
    with tempfile.TemporaryDirectory() as tmp:
        path = pathlib.Path(tmp)
        write_oracle(spec, seed, tensors, path)
        model = oracle.load(path, skipped=skipped)
        rng = np.random.Generator(np.random.PCG64(seed + 1000))
        ids = rng.integers(0, oracle.vocab_size(model), T).tolist()
        tok = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        return oracle.attempt(path, model, ids, tok, spec["prompt"], spec.get("tap_rows", TAP_ROWS), LOGIT_ROWS,
                              lambda taps: check_special(spec, model, taps), seed, N_NEW, skipped)


def cmd_make(args):
    for name in args.names or FAMILIES:
        spec = FAMILIES[name]
        seed, gold, row = oracle.search(name, range(args.seed, 1000), lambda n: make_try(spec, n))
        out = OUT / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        write_json(out / "config.json", spec["config"])
        write_json(out / "generation_config.json", {"eos_token_id": 0})
        write_list(out / "tensors.txt", seed, spec["tensors"](spec["config"]))
        safetensors.torch.save_file(gold, out / "golden.safetensors")
        (out / "golden.safetensors").chmod(0o644)
        (out / "prompt.txt").write_text(spec["prompt"])
        (out / "params.txt").write_text(counts_line(spec["config"]))
        row["bytes"] = sum(f.stat().st_size for f in out.iterdir())
        assert row["bytes"] <= 90 * 1024
        oracle.report("make_families.py", COLUMNS, name, row)
        print(name, row)


def cmd_verify(args):
    """From the folders alone: configuration, list of tensors, vectors."""
    bad = 0
    for name in args.names or FAMILIES:
        spec, folder = FAMILIES[name], OUT / name
        config = json.loads((folder / "config.json").read_text())
        seed, tensors = read_list(folder / "tensors.txt")
        gold = safetensors.torch.load_file(folder / "golden.safetensors")
        tok = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        same_prompt = tok.encode((folder / "prompt.txt").read_text()).ids == gold["greedy_prompt"].tolist()
        with tempfile.TemporaryDirectory() as tmp:
            path = pathlib.Path(tmp)
            write_oracle(spec | {"config": config}, seed, tensors, path)
            model = oracle.load(path, skipped=spec.get("skipped", ()))
            worst, other_choices, same, gaps = oracle.differences(model, gold)
        same_count = counts_line(config) == (folder / "params.txt").read_text()
        print(f"{name}: taps max abs diff {worst:.1e}, greedy same {same}, prompt same {same_prompt}, "
              f"count same {same_count}, gaps {gaps[0]:.1e} {gaps[1]:.1e}")
        bad += other_choices + (worst > VERIFY_TOLERANCE) + (not same) + (not same_prompt) + (not same_count)
    sys.exit(f"{bad} checks failed" if bad else 0)


def cmd_checkpoint(args):
    folder, out = OUT / args.name, pathlib.Path(args.dir)
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out / "model.safetensors", *read_list(folder / "tensors.txt"))
    for name in ("config.json", "generation_config.json"):
        shutil.copy(folder / name, out / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, out / name)


def cmd_counts(_args):
    for folder in sorted(list(OUT.glob("*/")) + list(CONFIGS.glob("*/"))):
        line = counts_line(json.loads((folder / "config.json").read_text()))
        (folder / "params.txt").write_text(line)
        print(folder.name, line, end="")


def main():
    oracle.set_up()
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="cmd", required=True)
    for name, run in (("make", cmd_make), ("verify", cmd_verify)):
        p = sub.add_parser(name)
        p.add_argument("names", nargs="*", choices=[*FAMILIES, []], metavar="NAME")
        p.add_argument("--seed", type=int, default=1, help="the first to try")
        p.set_defaults(run=run)
    p = sub.add_parser("checkpoint")
    p.add_argument("name", choices=FAMILIES)
    p.add_argument("dir")
    p.set_defaults(run=cmd_checkpoint)
    sub.add_parser("counts").set_defaults(run=cmd_counts)
    args = ap.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
