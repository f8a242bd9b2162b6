"""The small mixture-of-experts models, written for fast training on a CPU.

One decoder covers the architectures; `Config` says which. The arithmetic is that of the Mixtral,
Qwen3Moe and Qwen3_5Moe classes in `transformers` (export.py proves it by comparing logits), except
for one thing in training: an expert takes at most `capacity` times its fair share of a batch's
tokens and lets the rest pass, so that all experts' products are one batched matmul of a fixed shape.

Shapes: N = rows * length tokens of a batch, E experts, K chosen per token, C slots per expert.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import delta

BLOCKS = 4      # of queries in attention


@dataclass
class Config:
    name: str
    arch: str                   # "mixtral", "qwen3_moe" or "qwen3_5_moe"
    vocab: int = 4096
    dim: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 8
    top_k: int = 2
    ffn: int = 384
    qk_norm: bool = False
    eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 1024
    # of qwen3_5_moe: which layers have delta nets, the others attention with a gate; and an expert
    # that all tokens have
    delta_layers: tuple = ()
    shared: int = 0
    k_heads: int = 0
    v_heads: int = 0
    delta_dim: int = 64
    taps: int = 4

    def is_full(self, layer):
        return layer not in self.delta_layers


CONFIGS = {
    "fable": Config("fable", "mixtral"),
    "fable-fine": Config("fable-fine", "qwen3_moe", dim=256, heads=4, kv_heads=2, head_dim=64,
                         experts=32, top_k=4, ffn=64, qk_norm=True, eps=1e-6),
    "parley": Config("parley", "qwen3_5_moe", vocab=4100, dim=256, heads=4, kv_heads=2, head_dim=64,
                     experts=30, top_k=4, ffn=64, qk_norm=True, eps=1e-6, max_positions=2048,
                     delta_layers=(2, 4), shared=32, k_heads=2, v_heads=4),
}


def shapes(c):
    """Name -> shape of every parameter. The layers that have it are stacked in front, experts after
    them."""
    q, kv, layers = c.heads * c.head_dim, c.kv_heads * c.head_dim, c.layers
    full = layers - len(c.delta_layers)
    s = {
        "embed": (c.vocab, c.dim), "head": (c.vocab, c.dim), "norm": (c.dim,),
        "attn_norm": (layers, c.dim), "moe_norm": (layers, c.dim),
        "q": (full, q, c.dim), "k": (full, kv, c.dim), "v": (full, kv, c.dim),
        "o": (full, c.dim, q),
        "router": (layers, c.experts, c.dim),
        "gate": (layers, c.experts, c.ffn, c.dim), "up": (layers, c.experts, c.ffn, c.dim),
        "down": (layers, c.experts, c.dim, c.ffn),
    }
    if c.qk_norm:
        s |= {"q_norm": (full, c.head_dim), "k_norm": (full, c.head_dim)}
    if c.arch == "qwen3_5_moe":
        s |= delta.shapes(c, layers - full) | {
            "o_gate": (full, q, c.dim), "shared_gate": (layers, 1, c.dim),
            "shared_in": (layers, 2 * c.shared, c.dim), "shared_out": (layers, c.dim, c.shared)}
    return s


def layer_names(c, layer):
    """Name -> index of the layer in the stack of that name, for all that the layer has."""
    full = [i for i in range(c.layers) if c.is_full(i)]
    rest = [i for i in range(c.layers) if not c.is_full(i)]
    out = {}
    for name in shapes(c):
        stack = full if name in ("q", "k", "v", "o", "q_norm", "k_norm", "o_gate") else \
            rest if name.startswith("delta") else range(c.layers)
        if name not in ("embed", "head", "norm") and layer in stack:
            out[name] = list(stack).index(layer)
    return out


def init(c, seed):
    """fp32 parameters: norms one, matrices normal, what writes to the residual stream smaller."""
    g = torch.Generator().manual_seed(seed)
    params = {}
    for name, shape in shapes(c).items():
        if "norm" in name:
            params[name] = torch.ones(shape)
            continue
        std = 0.02 if name in ("embed", "head", "router") else shape[-1] ** -0.5 * 0.5
        if name in ("o", "down", "delta_out", "shared_out"):
            std *= (2 * c.layers) ** -0.5
        params[name] = torch.randn(shape, generator=g) * std
    return params | (delta.init(c, params, g) if c.v_heads else {})


def counts(c):
    """(total, active per token): the embedding counts as one row, the rest as what is multiplied."""
    n = {name: torch.Size(shape).numel() for name, shape in shapes(c).items()}
    experts = n["gate"] + n["up"] + n["down"]
    return sum(n.values()), sum(n.values()) - n["embed"] - experts + experts * c.top_k // c.experts


def rms_norm(x, weight, eps):
    x = x.float()
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)) * weight.float()


def tables(c, length):
    """What a forward over `length` positions needs besides weights: RoPE cos and sin, causal mask."""
    freq = c.rope_theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), freq)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin(), torch.full((length, length), float("-inf")).triu(1)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Dispatch(torch.autograd.Function):
    """Tokens [N, D] -> expert slots [E * C, D]. Both directions gather, so nothing is scattered."""

    @staticmethod
    def forward(ctx, x, token_of_slot, slot_of_choice):
        ctx.save_for_backward(slot_of_choice)
        return F.pad(x, (0, 0, 0, 1))[token_of_slot]

    @staticmethod
    def backward(ctx, d_slots):
        slot, = ctx.saved_tensors
        padded = F.pad(d_slots, (0, 0, 0, 1))
        dx = padded[slot[:, 0]].float()
        for k in range(1, slot.shape[1]):
            dx = dx + padded[slot[:, k]].float()
        return dx.to(d_slots.dtype), None, None


class Combine(torch.autograd.Function):
    """Expert outputs [E * C, D] and weights [N, K] -> tokens [N, D], the weighted sum of K slots."""

    @staticmethod
    def forward(ctx, y, weight, token_of_slot, slot_of_choice, weight_of_slot):
        ctx.save_for_backward(y, token_of_slot, slot_of_choice, weight_of_slot)
        padded = F.pad(y, (0, 0, 0, 1))
        out = padded[slot_of_choice[:, 0]].float() * weight[:, 0:1]
        for k in range(1, slot_of_choice.shape[1]):
            out = out + padded[slot_of_choice[:, k]].float() * weight[:, k:k + 1]
        return out

    @staticmethod
    def backward(ctx, d_out):
        y, token, slot, weight_of_slot = ctx.saved_tensors
        d_y = (F.pad(d_out, (0, 0, 0, 1))[token] * weight_of_slot[:, None]).to(y.dtype)
        padded = F.pad(y, (0, 0, 0, 1))
        d_weight = [(padded[slot[:, k]].float() * d_out).sum(-1) for k in range(slot.shape[1])]
        return d_y, torch.stack(d_weight, -1), None, None, None


def route(logits, top_k):
    """Router logits [N, E] -> (all probabilities, chosen experts [N, K], weights that sum to 1)."""
    probs = torch.softmax(logits.float(), -1)
    top, chosen = torch.topk(probs, top_k, dim=-1)
    return probs, chosen, top / top.sum(-1, keepdim=True)


def moe(c, x, p, capacity):
    """x: normed tokens [N, D]. Returns (output [N, D] fp32, balance loss, loads [E], dropped)."""
    n, e, k = x.shape[0], c.experts, c.top_k
    slots = min(n, int(capacity * n * k / e + 63) // 64 * 64)
    probs, chosen, weight = route(x @ p["router"].T, k)

    with torch.no_grad():
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        load = (flat[:, None] == torch.arange(e)).sum(0)
        first = torch.cumsum(load, 0) - load
        rank = torch.arange(n * k) - first[flat[order]]
        target = torch.where(rank < slots, flat[order] * slots + rank, e * slots)
        slot_of_choice = torch.empty_like(flat).scatter_(0, order, target).view(n, k)
        token_of_slot = torch.full((e * slots + 1,), n).scatter_(0, target, order // k)[:-1]
        weight_of_slot = torch.zeros(e * slots + 1).scatter_(
            0, target, weight.detach().reshape(-1)[order])[:-1]
        # the last slot is the bin for what found no room; it never reaches an expert
        share = load.float() / (n * k)
        dropped = (load - slots).clamp_min(0).sum()

    xs = Dispatch.apply(x, token_of_slot, slot_of_choice).view(e, slots, c.dim)
    gate = torch.bmm(xs, p["gate"].transpose(1, 2))
    up = torch.bmm(xs, p["up"].transpose(1, 2))
    hidden = (F.silu(gate.float()) * up.float()).to(x.dtype)
    ys = torch.bmm(hidden, p["down"].transpose(1, 2)).view(e * slots, c.dim)
    out = Combine.apply(ys, weight, token_of_slot, slot_of_choice, weight_of_slot)
    balance = e * (share * probs.mean(0)).sum()
    return out, balance, load, dropped


def attention(c, x, p, cos, sin, mask, rows, length):
    group = c.heads // c.kv_heads
    q = (x @ p["q"].T).view(rows, length, c.heads, c.head_dim)
    k = (x @ p["k"].T).view(rows, length, c.kv_heads, c.head_dim)
    v = (x @ p["v"].T).view(rows, length, c.kv_heads, c.head_dim)
    q, k = q.float(), k.float()
    if c.qk_norm:
        q, k = rms_norm(q, p["q_norm"], c.eps), rms_norm(k, p["k_norm"], c.eps)
    q = rotate(q, cos[:, None], sin[:, None]) * c.head_dim ** -0.5
    k = rotate(k, cos[:, None], sin[:, None])
    q = q.to(x.dtype).view(rows, length, c.kv_heads, group, c.head_dim).permute(0, 2, 3, 1, 4)
    q = q.reshape(rows * c.kv_heads, group, length, c.head_dim)
    k = k.to(x.dtype).permute(0, 2, 1, 3).reshape(rows * c.kv_heads, length, c.head_dim)
    v = v.permute(0, 2, 1, 3).reshape(rows * c.kv_heads, length, c.head_dim)
    v = torch.cat([v, torch.ones_like(v)], -1)
    # softmax without its row passes: exp in one pass, and the row sums come out of the matmul with
    # the values, as columns of ones. Blocks of queries leave out most keys that the mask would zero.
    # Query heads that share a KV head lie below each other: one taller matmul per KV head.
    block = length // BLOCKS if length % BLOCKS == 0 else length
    outs = []
    for end in range(block, length + 1, block):
        part = q[:, :, end - block:end].reshape(-1, group * block, c.head_dim)
        scores = torch.bmm(part, k[:, :end].transpose(1, 2)).view(-1, group, block, end)
        probs = torch.exp(scores.float().clamp_max(80.0) + mask[end - block:end, :end]).to(x.dtype)
        out = torch.bmm(probs.view(-1, group * block, end), v[:, :end]).float()
        out = (out[..., :c.head_dim] / out[..., c.head_dim:c.head_dim + 1]).to(x.dtype)
        outs.append(out.view(rows, c.kv_heads, group, block, c.head_dim))
    out = torch.cat(outs, 3).permute(0, 3, 1, 2, 4).reshape(rows * length, c.heads * c.head_dim)
    if "o_gate" in p:
        out = (out.float() * torch.sigmoid((x @ p["o_gate"].T).float())).to(x.dtype)
    return out @ p["o"].T


def shared_expert(c, x, p):
    gate, up = (x @ p["shared_in"].T).float().chunk(2, -1)
    out = (F.silu(gate) * up).to(x.dtype) @ p["shared_out"].T
    return out.float() * torch.sigmoid((x @ p["shared_gate"].T).float())


def forward(c, params, tokens, table, capacity=None, seen=None):
    """tokens [rows, length] -> (logits [rows * length, vocab], balance, loads [layers, E], dropped).

    Matmuls run in the type of `params` (bf16 in training), everything else in fp32.
    capacity None: every expert takes all tokens that choose it. seen: a list that gets every
    layer's MoE input.
    """
    rows, length = tokens.shape
    dtype = params["q"].dtype
    cos, sin, mask = table
    capacity = c.experts / c.top_k if capacity is None else capacity
    h = params["embed"][tokens.reshape(-1)].float()
    balance, loads, dropped = 0.0, [], 0
    per_layer = {n: params[n].unbind(0) for n in params if n not in ("embed", "head", "norm")}
    for i in range(c.layers):
        p = {name: per_layer[name][at] for name, at in layer_names(c, i).items()}
        x = rms_norm(h, p["attn_norm"], c.eps).to(dtype)
        mixed = attention(c, x, p, cos, sin, mask, rows, length) if c.is_full(i) else \
            delta.forward(c, x, p, rows, length)
        h = h + mixed.float()
        x = rms_norm(h, p["moe_norm"], c.eps).to(dtype)
        if seen is not None:
            seen.append(x)
        out, layer_balance, load, layer_dropped = moe(c, x, p, capacity)
        h = h + out
        if c.shared:
            h = h + shared_expert(c, x, p)
        balance = balance + layer_balance
        loads.append(load)
        dropped = dropped + layer_dropped
    x = rms_norm(h, params["norm"], c.eps).to(dtype)
    return x @ params["head"].T, balance / c.layers, torch.stack(loads), dropped
