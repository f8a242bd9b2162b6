"""Held-out loss, expert loads and samples of a trained model."""
import os

import numpy as np
import torch
import torch.nn.functional as F

import model


def stream(folder, name):
    return torch.from_numpy(np.fromfile(os.path.join(folder, name + ".bin"), np.uint16).astype(np.int64))


@torch.no_grad()
def held_out(c, params, ids, window=256, rows=16):
    """Cross-entropy of every window [n] (no BOS put in front; a last short window is left out) and
    the share of the choices each expert of each layer got [layers, E], 1 = fair."""
    windows = ids[:len(ids) // window * window].view(-1, window)
    table, losses, loads = model.tables(c, window), [], 0
    for chunk in windows.split(rows):
        logits, _, load, _ = model.forward(c, params, chunk, table)
        logits = logits.view(*chunk.shape, -1)[:, :-1].float()
        losses.append(F.cross_entropy(logits.transpose(1, 2), chunk[:, 1:], reduction="none").mean(1))
        loads = loads + load
    return torch.cat(losses), loads.float() / loads.sum(1, keepdim=True) * c.experts


@torch.no_grad()
def sample(c, params, ids, count, temperature, seed):
    """Continue `ids` by up to `count` tokens or to the end of the text. No cache: short texts only."""
    g = torch.Generator().manual_seed(seed)
    ids = list(ids)
    for _ in range(count):
        logits = model.forward(c, params, torch.tensor([ids]), model.tables(c, len(ids)))[0][-1]
        token = torch.multinomial(torch.softmax(logits.float() / temperature, -1), 1, generator=g)
        if token.item() == 0:
            break
        ids.append(token.item())
    return ids
