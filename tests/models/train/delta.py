"""The gated delta net of Qwen3_5Moe, a layer that remembers in a matrix a head.

For each token a head's state S [K, V] fades by exp(g), forgets `beta` of what it has under the key,
and learns the value in its place: S = exp(g) S, S += k (beta (v - S' k))'. Its output is S' q.
Within a chunk of tokens this is solved at once (the UT transform of Yang et al., "Gated Delta
Networks", 2024), so that only chunks follow each other.

Stacked parameters: `delta_in` is the projection to q, k, v and z below each other, `delta_ab` that
to a and b, a row a head.
"""
import math

import torch
import torch.nn.functional as F

CHUNK = 32      # tokens that are solved at once


def shapes(c, layers):
    k, v = c.k_heads * c.delta_dim, c.v_heads * c.delta_dim
    return {
        "delta_in": (layers, 2 * k + 2 * v, c.dim), "delta_out": (layers, c.dim, v),
        "delta_ab": (layers, 2 * c.v_heads, c.dim), "delta_conv": (layers, 2 * k + v, c.taps),
        "delta_rate": (layers, c.v_heads), "delta_dt": (layers, c.v_heads),
        "delta_norm": (layers, c.delta_dim),
    }


def init(c, params, g):
    """What is not a plain matrix: heads that fade in some two to a thousand tokens, and a
    convolution that mostly takes the token itself."""
    rate = torch.empty(params["delta_rate"].shape).uniform_(1, 16, generator=g)
    low, high = math.log(0.001), math.log(0.1)
    dt = torch.empty(params["delta_dt"].shape).uniform_(low, high, generator=g).exp()
    conv = params["delta_conv"] * 0.2
    conv[..., -1] += 1
    return {"delta_rate": rate.log(), "delta_dt": dt + (-torch.expm1(-dt)).log(),
            "delta_conv": conv, "delta_ab": params["delta_ab"] * 0.5}


def convolve(x, weight):
    """x [rows, length, channels], each channel with its own taps, the last of which is now."""
    taps, length = weight.shape[-1], x.shape[1]
    x, weight = F.pad(x.float(), (0, 0, taps - 1, 0)), weight.float()
    out = x[:, taps - 1:] * weight[:, taps - 1]
    for i in range(taps - 1):
        out = out + x[:, i:i + length] * weight[:, i]
    return F.silu(out)


def unit(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def inverse(lower):
    """(I + lower)^-1 of strictly lower triangular matrices [B, C, C]: the product of I + M^(2^i)
    with M = -lower, which ends because M^C is zero."""
    m = -lower
    out = torch.eye(CHUNK) + m
    for _ in range(CHUNK.bit_length() - 2):
        m = torch.bmm(m, m)
        out = out + torch.bmm(out, m)
    return out


def delta_rule(q, k, v, g, beta, dtype):
    """q, k [rows, heads, length, K], v [rows, heads, length, V], g, beta [rows, heads, length], all
    fp32, length a multiple of CHUNK. Products of what is stored run in `dtype`."""
    rows, heads, length, width = v.shape
    chunks = length // CHUNK
    q, k, v = (t.reshape(-1, CHUNK, t.shape[-1]) for t in (q, k, v))
    g, beta = g.reshape(-1, CHUNK).cumsum(-1), beta.reshape(-1, CHUNK, 1)
    upper = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    fade = (g[:, :, None] - g[:, None, :]).masked_fill(upper, float("-inf")).exp()
    kt = k.to(dtype).transpose(1, 2)
    scores = torch.bmm(q.to(dtype), kt).float() * fade
    solved = inverse((torch.bmm((k * beta).to(dtype), kt).float() * fade).tril(-1)).to(dtype)
    since, left = g.exp()[:, :, None], (g[:, -1:] - g).exp()[:, :, None]
    written = torch.bmm(solved, (v * beta).to(dtype)).float()
    read = torch.bmm(solved, (k * (beta * since)).to(dtype))

    def parts(t):
        return t.view(rows * heads, chunks, *t.shape[1:]).unbind(1)

    # the queries' look at the state and what the keys have in it are one product
    looks = parts(torch.cat([read, (q * since).to(dtype)], 1))
    written, scores = parts(written), parts(scores.to(dtype))
    keys, kept = parts((k * left).to(dtype).transpose(1, 2)), parts(since[:, -1:])
    state, outs = None, []
    for i in range(chunks):
        new, seen = written[i], 0
        if state is not None:
            old, seen = torch.bmm(looks[i], state.to(dtype)).float().chunk(2, 1)
            new = new - old
        new = new.to(dtype)
        outs.append(seen + torch.bmm(scores[i], new).float())
        if i + 1 < chunks:
            learned = torch.bmm(keys[i], new).float()
            state = learned if state is None else state * kept[i] + learned
    return torch.stack(outs, 1).view(rows, heads, length, width)


def forward(c, x, p, rows, length):
    """x: normed tokens [N, D] -> [N, D]."""
    heads, dim = c.v_heads, c.delta_dim
    k_dim, v_dim = c.k_heads * dim, heads * dim
    qkv, z = (x @ p["delta_in"].T).view(rows, length, -1).split([2 * k_dim + v_dim, v_dim], -1)
    a, b = (x @ p["delta_ab"].T).float().view(rows, length, 2, heads).permute(2, 0, 3, 1)
    q, k, v = convolve(qkv, p["delta_conv"]).split([k_dim, k_dim, v_dim], -1)
    v = v.reshape(rows, length, heads, dim).transpose(1, 2)
    q, k = (unit(t.reshape(rows, length, c.k_heads, dim)).transpose(1, 2)
            .repeat_interleave(heads // c.k_heads, 1) for t in (q, k))
    g = -p["delta_rate"].float().exp()[:, None] * F.softplus(a + p["delta_dt"].float()[:, None])
    beta = torch.sigmoid(b)
    short = -length % CHUNK
    if short:
        q, k, v = (F.pad(t, (0, 0, 0, short)) for t in (q, k, v))
        g, beta = F.pad(g, (0, short)), F.pad(beta, (0, short))
    out = delta_rule(q * dim ** -0.5, k, v, g, beta, x.dtype)[:, :, :length].transpose(1, 2)
    out = out * torch.rsqrt(out.pow(2).mean(-1, keepdim=True) + c.eps) * p["delta_norm"].float()
    out = out * F.silu(z.float().view(rows, length, heads, dim))
    return out.reshape(rows * length, v_dim).to(x.dtype) @ p["delta_out"].T
