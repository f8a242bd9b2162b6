"""Wake starved experts of a checkpoint: python rebalance.py CHECKPOINT DATA (changes it in place)

A router row that scores below the others for every token gets next to no gradient from the
balancing loss. The mean of a layer's normed tokens works as a bias there: adding a multiple of it
to a row moves that expert's logit by nearly the same amount for every token. The multiples are
raised until every expert gets at least LEAST of its fair share of training text (and at most MOST);
training then goes on, so that the woken experts learn.
"""
import sys

import torch

import data
import model

LEAST, MOST, ROUNDS, RATE = 0.6, 1.8, 400, 0.05


def shares(logits, top_k):
    experts = logits.shape[1]
    count = torch.bincount(logits.topk(top_k, -1).indices.reshape(-1), minlength=experts)
    return count.float() / (logits.shape[0] * top_k) * experts


def rebalance(router, x, top_k):
    """Change router [E, D] in place for normed tokens x [N, D]; returns shares before and after."""
    mean = x.mean(0)
    logits, bias = x @ router.T, x @ mean / mean.dot(mean)
    before, multiple = shares(logits, top_k), torch.zeros(router.shape[0])
    for _ in range(ROUNDS):
        share = shares(logits + bias[:, None] * multiple, top_k)
        low = (LEAST / share.clamp_min(0.02)).log().clamp_min(0)
        high = (share / MOST).clamp_min(1).log()
        if not (low + high).any():
            break
        multiple += RATE * logits.std() * (low - high)
    router += multiple[:, None] * mean / mean.dot(mean)
    return before, shares(x @ router.T, top_k)


@torch.no_grad()
def main():
    path, folder = sys.argv[1:]
    saved = torch.load(path)
    c = model.CONFIGS[saved["args"]["model"]]
    params = {n: p.bfloat16() for n, p in saved["masters"].items()}
    rows, _, _ = data.Sampler(folder, 77).rows(48, 256, 0.7)
    inputs = []
    for chunk in rows.split(16):
        seen = []
        model.forward(c, params, chunk, model.tables(c, 256), seen=seen)
        inputs.append(seen)
    for i, router in enumerate(saved["masters"]["router"]):
        before, after = rebalance(router, torch.cat([s[i] for s in inputs]).float(), c.top_k)
        print(f"layer {i}: {before.min():.2f}-{before.max():.2f} -> "
              f"{after.min():.2f}-{after.max():.2f}")
    torch.save(saved, path)


if __name__ == "__main__":
    main()
