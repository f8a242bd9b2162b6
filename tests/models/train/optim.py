"""Muon for the matrices of attention and experts, Adam for the rest; fp32 masters of the weights.

Each of the two groups lives in flat buffers (master, weight, gradient, moments) of which the named
tensors are views, so that everything elementwise is one compiled pass over a group.
"""
import torch

MATRICES = ("q", "k", "v", "o", "gate", "up", "down",
            "o_gate", "shared_in", "shared_out", "delta_in", "delta_out")
MOMENTUM, BETA1, BETA2 = 0.95, 0.9, 0.95


def orthogonalize(m, steps=5):
    """Stack of matrices [B, R, C] -> nearly semi-orthogonal ones, by a quintic Newton-Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = m.shape[1] > m.shape[2]
    x = m.transpose(1, 2).contiguous() if flip else m
    x = x / (x.float().pow(2).sum((1, 2), keepdim=True).sqrt() + 1e-7).to(x.dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if flip else x


@torch.compile(dynamic=False)
def muon_direction(grad, first):
    g = grad.float()
    first.lerp_(g, 1 - MOMENTUM)
    return torch.lerp(g, first, MOMENTUM).to(grad.dtype)


@torch.compile(dynamic=False)
def muon_apply(master, weight, grad, update, lr, keep):
    master.mul_(keep).sub_(update.float() * lr)
    weight.copy_(master)
    grad.zero_()


@torch.compile(dynamic=False)
def adam_apply(master, weight, grad, first, second, rate, lr, fix1, fix2):
    g = grad.float()
    first.lerp_(g, 1 - BETA1)
    second.lerp_(g * g, 1 - BETA2)
    master.sub_(rate * lr * (first / fix1) / ((second / fix2).sqrt() + 1e-10))
    weight.copy_(master)
    grad.zero_()


class Group:
    def __init__(self, params, moments, dtype):
        size = sum(p.numel() for p in params.values())
        self.master = torch.cat([p.reshape(-1) for p in params.values()])
        self.weight = self.master.to(dtype, copy=True)
        self.grad = torch.zeros(size, dtype=dtype)
        self.moments = [torch.zeros(size) for _ in range(moments)]
        self.shapes = {n: p.shape for n, p in params.items()}

    def views(self, flat):
        out, at = {}, 0
        for n, shape in self.shapes.items():
            out[n] = flat[at:at + shape.numel()].view(shape)
            at += shape.numel()
        return out


class Optimizer:
    """Owns the parameters: `weights` (of `dtype`, for the forward pass) and masters() (fp32, to save).

    rates: learning rate of each name that is not in MATRICES; lr: of the matrices.
    """

    def __init__(self, params, lr, rates, decay, dtype):
        self.muon = Group({n: p for n, p in params.items() if n in MATRICES}, 1, dtype)
        self.adam = Group({n: p for n, p in params.items() if n not in MATRICES}, 2, dtype)
        self.lr, self.decay, self.count = lr, decay, 0
        self.rate = torch.cat([torch.full((p.numel(),), rates.get(n, rates["rest"]))
                               for n, p in params.items() if n not in MATRICES])
        self.weights = {}
        for group in (self.muon, self.adam):
            grads = group.views(group.grad)
            for n, w in group.views(group.weight).items():
                self.weights[n] = w.requires_grad_()
                w.grad = grads[n]

    def masters(self):
        return self.muon.views(self.muon.master) | self.adam.views(self.adam.master)

    def state(self):
        return {"masters": self.masters(), "moments": [*self.muon.moments, *self.adam.moments],
                "count": self.count}

    def load(self, state):
        for n, p in self.masters().items():
            p.copy_(state["masters"][n])
        for mine, saved in zip(self.muon.moments + self.adam.moments, state["moments"]):
            mine.copy_(saved)
        for group in (self.muon, self.adam):
            group.weight.copy_(group.master)
        self.count = state["count"]

    @torch.no_grad()
    def step(self, scale):
        """One update at `scale` times the learning rates; the gradients are zero afterwards."""
        self.count += 1
        number = torch.tensor       # a tensor argument does not make torch.compile start anew
        g = self.muon
        update = muon_direction(g.grad, g.moments[0])
        for view in g.views(update).values():
            rows, columns = view.shape[-2:]
            ortho = orthogonalize(view.view(-1, rows, columns))
            view.copy_((ortho * max(1.0, rows / columns) ** 0.5).view(view.shape))
        lr = self.lr * scale
        muon_apply(g.master, g.weight, g.grad, update, number(lr), number(1 - lr * self.decay))
        g = self.adam
        adam_apply(g.master, g.weight, g.grad, *g.moments, self.rate, number(scale),
                   number(1 - BETA1 ** self.count), number(1 - BETA2 ** self.count))
