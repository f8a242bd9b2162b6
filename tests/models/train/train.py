"""Train one of the models on a CPU until a given time of day.

    python train.py fable --data DATA --out RUN --until 07:50

The learning rate and the mixture of texts follow the share of the time that has gone, so a run ends
annealed whatever speed the machine had. While the file named by --pause exists, the run sleeps.
A run that was stopped (SIGTERM: it saves first) goes on from RUN/checkpoint.pt; one that begins has
random weights, or those of --start (warm.py).
"""
import argparse
import datetime
import json
import os
import signal
import time

import torch
import torch.nn.functional as F

import data
import evaluate
import model
from optim import Optimizer

WARMUP_STEPS = 40
DECAY_FROM = 0.4        # share of the time after which the learning rate falls linearly to 0
EVALUATE_EVERY = 480    # seconds
RATES = {"embed": 4e-3, "head": 2e-3, "rest": 2e-3}     # of Adam, where Muon has 0.012


def until(clock):
    now = datetime.datetime.now()
    hour, minute = map(int, clock.split(":"))
    end = now.replace(hour=hour, minute=minute, second=0)
    return (end if end > now else end + datetime.timedelta(days=1)).timestamp()


def lr_scale(step, progress):
    fall = (1 - progress) / (1 - DECAY_FROM) if progress > DECAY_FROM else 1.0
    return min(1.0, (step + 1) / WARMUP_STEPS) * fall


def modern_share(progress, low, high):
    return low + (high - low) * max(0.0, (progress - DECAY_FROM) / (1 - DECAY_FROM))


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("model", choices=model.CONFIGS)
    a.add_argument("--data", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--until", required=True, help="HH:MM, local time")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--start", help="weights to begin with")
    a.add_argument("--length", type=int, default=256, help="tokens of a row")
    a.add_argument("--long-from", type=float, default=0.75,
                   help="share of the time after which rows are twice as long")
    a.add_argument("--tokens", type=int, default=4096, help="in one pass")
    a.add_argument("--passes", type=int, default=3, help="passes whose gradients make one step")
    a.add_argument("--capacity", type=float, default=1.375)
    a.add_argument("--lr", type=float, default=0.012)
    a.add_argument("--decay", type=float, default=0.1)
    a.add_argument("--balance", type=float, default=0.03,
                   help="weight of the load-balancing loss, summed over layers")
    a.add_argument("--modern", type=float, nargs=2, default=(0.4, 0.7))
    a.add_argument("--dialogues", type=float, default=0.0,
                   help="share of the rows that are dialogues")
    a.add_argument("--asked", type=float, default=8.0,
                   help="what a token of the name and thing that were asked for counts in the loss")
    a.add_argument("--type", choices=("bfloat16", "float32"), default="bfloat16",
                   help="what products run in: bfloat16 is slow where the processor has none")
    a.add_argument("--pause", default="/tmp/pause_training")
    a.add_argument("--max-steps", type=int, default=10 ** 9)
    return a.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    c = model.CONFIGS[args.model]
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "checkpoint.pt")
    log = open(os.path.join(args.out, "log.jsonl"), "a", buffering=1)

    params = torch.load(args.start)["masters"] if args.start else model.init(c, args.seed)
    opt = Optimizer(params, args.lr,
                    {n: r * args.lr / 0.012 for n, r in RATES.items()}, args.decay,
                    getattr(torch, args.type))
    step, tokens, spent = 0, 0, 0.0
    if os.path.exists(path):
        saved = torch.load(path)
        opt.load(saved)
        step, tokens, spent = saved["step"], saved["tokens"], saved["seconds"]
        print(f"going on from step {step}", flush=True)

    def loss_of(weights, rows, labels, counts, table):
        logits, balance, _, dropped = model.forward(c, weights, rows, table, args.capacity)
        ce = F.cross_entropy(logits.float(), labels.reshape(-1), reduction="none")
        counts = counts.reshape(-1)
        ce = (ce * counts).sum() / counts.sum()
        return (ce + args.balance * balance) / args.passes, ce.detach(), dropped

    def save():
        torch.save(opt.state() | {"step": step, "tokens": tokens, "seconds": spent,
                                  "args": vars(args)}, path + ".new")
        os.replace(path + ".new", path)

    compiled = torch.compile(loss_of, dynamic=False)
    tables = {n: model.tables(c, n) for n in (args.length, 2 * args.length)}
    sampler = data.Sampler(args.data, args.seed + step, args.dialogues, args.asked)
    end, mark = until(args.until), time.time()
    saved_at, evaluated_at = mark, mark
    ce_sum = drop_sum = seen = 0
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    while time.time() < end and step < args.max_steps and not stop:
        if os.path.exists(args.pause):
            spent += time.time() - mark
            while os.path.exists(args.pause):
                time.sleep(1)
            mark = time.time()
        elapsed = spent + time.time() - mark
        progress = min(1.0, elapsed / (elapsed + end - time.time()))
        length = args.length * (2 if progress > args.long_from else 1)
        for _ in range(args.passes):
            rows, labels, counts = sampler.rows(args.tokens // length, length,
                                        modern_share(progress, *args.modern))
            loss, ce, dropped = compiled(opt.weights, rows, labels, counts, tables[length])
            loss.backward()
            ce_sum, drop_sum, seen = ce_sum + ce.item(), drop_sum + dropped.item(), seen + 1
            tokens += rows.shape[0] * length
        opt.step(lr_scale(step, progress))
        step += 1
        if step % 20 == 0:
            row = {"step": step, "tokens": tokens, "seconds": round(elapsed, 1), "cpu": round(time.process_time(), 1),
                   "progress": round(progress, 4), "loss": round(ce_sum / seen, 4),
                   "dropped": round(drop_sum / seen / (args.tokens * c.top_k * c.layers), 4)}
            ce_sum = drop_sum = seen = 0
            if time.time() - evaluated_at > EVALUATE_EVERY:
                losses, _ = evaluate.held_out(c, opt.weights, evaluate.stream(args.data, "valid"))
                row |= {"valid": round(losses[:64].mean().item(), 4),
                        "valid_all": round(losses.mean().item(), 4)}
                evaluated_at = time.time()
            log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if time.time() - saved_at > 180:
            spent, mark = spent + time.time() - mark, time.time()
            save()
            saved_at = time.time()
    spent += time.time() - mark
    save()
    print(f"done: {step} steps, {tokens} tokens, {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
