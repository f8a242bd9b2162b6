"""corm-run and llama.cpp side by side, on the same weights and token ids; see README.md.

    bench.py --build DIR --work DIR [--models small,uniform,fable,fable-fine,7b] [--codecs bf16,q8,q4] ...

Run by tests/llama/bench.sh, which compiles the helpers. Results are kept in WORK/results.json, each as soon as
it is there; --report prints the tables, and puts them into a Markdown file between its markers.
"""
import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time

import numpy as np

SMALL = "--preset olmoe-7b --layers 8 --dim 1024 --heads 8 --ffn 512 --vocab 8192"
# checkpoint: a folder, or the options of synth that make one. text: a file, "synth", or "-" for made-up ids.
MODELS = {
    "small": dict(synth=SMALL, text="synth", what="OLMoE-shaped, 0.86 B, local routing"),
    "uniform": dict(synth=SMALL + " --topic 0.001 --common 0.001", text="-",
                    what="the same shape, uniform routing"),
    "fable": dict(checkpoint="tests/models/fable", text="tests/golden/heldout.txt",
                  what="fable (mixtral, 13 M)", resident_only=True),
    "fable-fine": dict(checkpoint="tests/models/fable-fine", text="tests/golden/heldout.txt",
                       what="fable-fine (qwen3_moe, 13 M)", resident_only=True),
    "7b": dict(synth="--preset olmoe-7b", text="synth", what="OLMoE-shaped, 6.9 B"),
}
# Our codec of experts and of the trunk; GGUF's of both.
CODECS = {"bf16": ("keep", "keep", "bf16", "bf16"), "q8": ("q8", "q8", "q8_0", "q8_0"),
          "q4": ("q4", "q8", "q4_0", "q8_0"), "q8-bf16": ("q8", "keep", "q8_0", "bf16")}
BEGIN, END = "<!-- llama: begin -->", "<!-- llama: end -->"
READ_AHEAD_KB = 128
NO_CGROUP = 99  # exit status of a script
MIB = 1 << 20


def say(text):
    print(f"bench-llama: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


class Bench:
    def __init__(self, args):
        self.a = args
        self.path = os.path.join(args.work, "results.json")
        self.results = json.load(open(self.path)) if os.path.exists(self.path) else {}
        self.root = os.geteuid() == 0

    def tool(self, name):
        return os.path.join(self.a.work if name in ("peer", "trace") else self.a.build, name)

    def keep(self, kind, key, value):
        self.results.setdefault(kind, {})[key] = value
        with open(self.path + ".part", "w") as f:
            json.dump(self.results, f, indent=1)
        os.rename(self.path + ".part", self.path)

    def timed(self, commands, limit_bytes=None):
        """Run measured programs one after the other, as one command under --wrap, in a memory cgroup of that
        limit unless they only measure the device. Their (output, messages), or None where one died; None for
        all where no cgroup is to be had."""
        script, files = [], []
        if limit_bytes:
            script.append(f". tests/limits/cgroup.sh; trap cgroup_close EXIT; cgroup_open {limit_bytes} || "
                          f"exit {NO_CGROUP}")
        for i, command in enumerate(commands):
            files.append([os.path.join(self.a.work, f"run-{i}.{end}") for end in ("out", "err", "rc")])
            enter = "sync; echo 3 >/proc/sys/vm/drop_caches; cgroup_run " \
                if limit_bytes and "--io" not in command else ""
            out, err, rc = map(shlex.quote, files[-1])
            script.append(f"{enter}{shlex.join(str(c) for c in command)} >{out} 2>{err}; echo $? >{rc}")
        shell = subprocess.run(shlex.split(self.a.wrap) + ["sh", "-c", "\n".join(script)])
        if limit_bytes and shell.returncode == NO_CGROUP:
            return None
        shell.check_returncode()
        done = []
        for command, paths in zip(commands, files):
            out, err, rc = (open(path).read() for path in paths)
            if int(rc) != 0:
                say(f"exit {rc.strip()}: {' '.join(str(c) for c in command[:3])}: {err.strip()[-300:]}")
            done.append((out, err) if int(rc) == 0 else None)
        return done

    # ---- models, archives, ids ----

    def folder(self, name, bytes_needed):
        """Where a model's files live: a loop device with a usual readahead, or a plain folder."""
        folder = os.path.abspath(os.path.join(self.a.work, name))
        os.makedirs(folder, exist_ok=True)
        if not self.root or os.path.ismount(folder):
            return folder
        image = folder + ".img"
        if not os.path.exists(image):
            with open(image, "wb") as f:
                f.truncate(bytes_needed)
            run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image])
        device = subprocess.run(["losetup", "--direct-io=on", "--show", "-f", image], check=True,
                                capture_output=True, text=True).stdout.strip()
        with open(f"/sys/block/{os.path.basename(device)}/queue/read_ahead_kb", "w") as f:
            f.write(str(READ_AHEAD_KB))
        run(["mount", device, folder])
        return folder

    def prepare(self, name, codecs):
        m = MODELS[name]
        source = self.a.checkpoint.get(name) or m.get("checkpoint")
        if not source:
            source = os.path.join(self.a.work, name + "-hf")
            if not os.path.exists(os.path.join(source, "config.json")):
                say(f"making {source}")
                run([self.tool("synth"), "write", source, "-q"] + m["synth"].split())
        weights = sum(os.path.getsize(os.path.join(source, f)) for f in os.listdir(source)
                      if f.endswith(".safetensors"))
        m["folder"] = folder = self.folder(name, 5 * weights + 64 * MIB)
        text = m["text"]
        if text == "synth":
            text = os.path.join(self.a.work, name + ".txt")
            run([self.tool("synth"), "text", source, "--stream", "3", "--tokens", "2000", "-o", text])
        m["source"] = text
        wrap = shlex.split(self.a.build_wrap)
        for codec in codecs:
            experts, trunk, gguf_experts, gguf_trunk = CODECS[codec]
            ours, theirs = self.files(name, codec)
            if not os.path.exists(ours):
                say(f"converting {ours}")
                run(wrap + [self.tool("corm-prep"), "convert", source, "-q", "--codec", experts, "--trunk",
                            trunk, "-o", ours])
            if not os.path.exists(theirs):
                say(f"converting {theirs}")
                run(wrap + [sys.executable, "tests/llama/gguf_from_hf.py", source, theirs, "--experts",
                            gguf_experts, "--trunk", gguf_trunk])
        m["ids"] = os.path.join(self.a.work, name + ".ids")
        m["n_ids"] = self.a.prompt + self.a.decode
        run([self.tool("trace"), self.files(name, codecs[0])[0], text, m["ids"], 0, m["n_ids"]])

    def files(self, name, codec):
        folder = MODELS[name]["folder"]
        return os.path.join(folder, codec + ".corm"), os.path.join(folder, codec + ".gguf")

    # ---- the same function? ----

    def agree(self, name):
        """Distance of the two programs' logits, on the first 256 ids, weights in bf16."""
        ours, theirs = self.files(name, "bf16")
        few = os.path.join(self.a.work, "few.ids")
        with open(MODELS[name]["ids"]) as f, open(few, "w") as g:
            g.writelines(f.readlines()[:256])
        npy, raw = os.path.join(self.a.work, "ours.npy"), os.path.join(self.a.work, "theirs.f32")
        run([self.tool("corm-run"), "logits", ours, "-q", "--ids-file", few, "-o", npy],
            stdout=subprocess.DEVNULL)
        run([self.tool("peer"), "logits", theirs, few, raw, 2, "plain"])
        a = np.load(npy).astype(np.float64)
        b = np.fromfile(raw, np.float32).reshape(a.shape).astype(np.float64)
        p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (a, b))
        self.keep("agree", name, dict(same_best=float((a.argmax(1) == b.argmax(1)).mean()),
                                      kl=float((np.exp(p) * (p - q)).sum(1).mean()),
                                      rms=float(np.sqrt(((a - b) ** 2).mean()) / a.std())))

    # ---- all in memory ----

    def ways(self, name, codec):
        """The ways in which llama.cpp can hold these weights without dying."""
        found = []
        for way in ["default", "plain"] + (["repack"] if CODECS[codec][2] == "q4_0" else []):
            command = [self.tool("peer"), "bench", self.files(name, codec)[1], MODELS[name]["ids"], 64, 2, 1, 2,
                       way]
            if subprocess.run([str(c) for c in command], capture_output=True).returncode == 0:
                found.append(way)
            else:
                self.keep("dies", f"{codec} {way}", True)
        return [w for w in found if w != "repack" or "default" not in found]

    def resident(self, name, codec, threads):
        a, (ours, theirs) = self.a, self.files(name, codec)
        text = MODELS[name]["source"]
        ways = self.ways(name, codec)
        speeds = {who: ([], []) for who in ["ours"] + ways}
        commands = [[self.tool("corm-run"), "bench", ours, "-q", "--json", "--threads", threads, "--batch", 512,
                     "--prompt-tokens", a.prompt, "--decode-tokens", a.decode, "--reps", a.reps]
                    + ([] if text == "-" else ["-f", text])]
        commands += [[self.tool("peer"), "bench", theirs, MODELS[name]["ids"], a.prompt, a.decode, a.reps,
                      threads, way] for way in ways]
        for who, done in zip((["ours"] + ways) * a.rounds, self.timed(commands * a.rounds)):
            j = json.loads(done[0]) if done else None
            if done and who == "ours":
                speeds[who][0].append(j["prefill"]["tok_per_s"])
                speeds[who][1].append(j["decode"]["tok_per_s"])
            elif done:
                middle = a.reps // 2  # as corm-run takes it: the slower middle one
                speeds[who][0].append(a.prompt / sorted(j["prefill_s"])[middle])
                speeds[who][1].append(a.decode / sorted(j["decode_s"])[middle])
        self.keep("resident", f"{name} {codec} {threads}",
                  {who: [statistics.median(x) for x in both] for who, both in speeds.items() if both[0]})

    # ---- under a memory limit ----

    def limited(self, name, codec, percent):
        a, (ours, theirs) = self.a, self.files(name, codec)
        text = MODELS[name]["source"]
        limit = os.path.getsize(theirs) * percent // 100
        n, prompt = a.limit_decode, a.limit_prompt
        rows = dict(ours=[], theirs=[])
        room = 0
        commands = [[self.tool("corm-run"), "bench", ours, "--json", "--ram", limit - a.margin * MIB, "--threads",
                     2, "--prompt-tokens", prompt, "--decode-tokens", n, "--reps", 1]
                    + ([] if text == "-" else ["-f", text]),
                    [self.tool("peer"), "bench", theirs, MODELS[name]["ids"], prompt, n, 1, 2, "plain"]]
        device = [self.tool("corm-run"), "bench", ours, "--io", "--json", "-q"]
        measured = self.timed(commands * a.limit_rounds + [device], limit)
        if measured is None:
            say(f"{name} {codec} {percent} %: left out")
            return
        *runs, io = measured
        for i, done in enumerate(runs):
            j = json.loads(done[0]) if done else None
            if done and i % 2 == 0:
                rows["ours"].append((j["decode"]["tok_per_s"], j["decode"]["archive_bytes_per_tok"]))
                room = share_of_experts(done[1])
            elif done:
                rows["theirs"].append((n / j["decode_s"][0], j["decode_bytes"] / n))
        row = {who: [statistics.median(x) for x in zip(*all_)] for who, all_ in rows.items() if all_}
        row.update(limit=limit, room=room, rate=best_direct_rate(io[0]) if io else 0)
        row["least"] = self.least_bytes(name, codec, room)
        self.keep("limited", f"{name} {codec} {percent}", row)

    def least_bytes(self, name, codec, room):
        """Bytes a token that a cache for the share `room` of all experts must read if it knows the future."""
        a, ours = self.a, self.files(name, codec)[0]
        routes = os.path.join(a.work, "routes.txt")
        run([self.tool("trace"), ours, MODELS[name]["source"], os.path.join(a.work, "route.ids"), 1,
             a.limit_prompt + a.limit_decode, routes])
        with open(routes) as f:
            events = [[int(x) for x in line.split()] for line in f]
        done = run([self.tool("corm-prep"), "inspect", ours, "--json"], capture_output=True, text=True)
        j = json.loads(done.stdout)
        layers = len({e[0] for e in events})
        n_experts, stored = expert_sizes(j, layers)
        misses = belady([[(e[0], x) for x in e[1:]] for e in events], int(room * layers * n_experts),
                        (a.limit_prompt - 1) * layers)
        return misses * stored / a.limit_decode


def best_direct_rate(io):
    return max(r["bytes_per_s"] for r in json.loads(io)["rows"] if r["way"] == "direct")


def share_of_experts(plan):
    """The share of all experts for which there is room, of corm-run's memory plan."""
    unit = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    m = re.search(r"experts ([\d.]+) (\w+) of ([\d.]+) (\w+), KV", plan)
    return float(m[1]) * unit[m[2]] / (float(m[3]) * unit[m[4]])


def expert_sizes(inspected, layers):
    """Experts of a layer, and the stored bytes of one."""
    records = next(s["bytes"] for s in inspected["sections"] if s["name"] == "records")
    n = inspected["architecture"]["n_experts"]
    return n, records / (n * layers)


def belady(events, capacity, count_from):
    """Misses of events[count_from:] where what is needed last is evicted. An event's keys are needed together."""
    following, later = [], {}
    for event in reversed(events):
        following.append([later.get(k, 1 << 60) for k in event])
        later.update((k, len(events) - len(following)) for k in event)
    following.reverse()
    cached, misses = {}, 0
    for i, event in enumerate(events):
        misses += sum(k not in cached for k in event) if i >= count_from else 0
        cached.update(zip(event, following[i]))
        while len(cached) > max(capacity, len(event)):
            del cached[max((k for k in cached if k not in event), key=cached.get)]
    return misses


# ---- tables ----

def tables(b):
    r, lines = b.results, []
    out = lines.append
    out(f"Peer: {b.a.peer_name}; {b.a.machine}. Models are named in `tests/llama/bench.py`; the same weights and "
        "token ids on both sides, runs in turn, medians. `ours / theirs`, tokens a second.\n")
    out("**The same function.** Weights in bf16, 256 tokens:\n")
    out("| model | same best token | mean KL, nats | RMS of the difference / of the logits |\n|---|---|---|---|")
    for name, x in r.get("agree", {}).items():
        out(f"| {MODELS[name]['what']} | {100 * x['same_best']:.1f} % | {x['kl']:.1e} | {x['rms']:.4f} |")
    out("\n**All in memory**, prompt of "
        f"{b.a.prompt}, then {b.a.decode} tokens one by one. Of llama.cpp's ways of holding weights the best "
        "in each cell.\n")
    out("| model | codec | threads | prefill | ratio | decode | ratio |\n|---|---|---|---|---|---|---|")
    for key, x in r.get("resident", {}).items():
        name, codec, threads = key.split()
        cells = []
        if "ours" not in x or len(x) < 2:
            who = "theirs" if "ours" in x else "ours"
            out(f"| {name} | {codec} | {threads} | {who}: ended without a result | | | |")
            continue
        for i in range(2):
            way = max((w for w in x if w != "ours"), key=lambda w: x[w][i])
            cells += [f"{x['ours'][i]:.0f} / {x[way][i]:.0f} ({way})", f"**{x['ours'][i] / x[way][i]:.2f}**"]
        out(f"| {name} | {codec} | {threads} | {' | '.join(cells)} |")
    dead = ", ".join(r.get("dies", {}))
    if dead:
        out(f"\nIts ways that ended with a signal on this machine and are left out: {dead}.")
    if r.get("limited"):
        out(f"\n**Under a memory limit** (cgroup; page cache dropped; 2 threads; prompt {b.a.limit_prompt}, then "
            f"{b.a.limit_decode} tokens; loop device with {READ_AHEAD_KB} KiB of readahead). *limit*: share of the "
            "GGUF file. *least*: what a cache that knows the future (Belady) would read in the room that ours "
            "had, and the speed if only the device (its best direct rate) were in the way.\n")
        out("| model | codec | limit | tok/s | ratio | MB read a token | least | device MB/s | at most tok/s |\n"
            "|---|---|---|---|---|---|---|---|---|")
    for key, x in r.get("limited", {}).items():
        name, codec, percent = key.split()
        if "ours" not in x or "theirs" not in x:
            who = " and ".join(w for w in ("ours", "theirs") if w not in x)
            out(f"| {name} | {codec} | {percent} % | {who}: ended without a result | | | | | |")
            continue
        (o, ob), (t, tb) = x["ours"], x["theirs"]
        most = f"{x['rate'] / x['least']:.1f}" if x["least"] else "-"
        out(f"| {name} | {codec} | {percent} % | {o:.2f} / {t:.2f} | **{o / t:.2f}** | {ob / 1e6:.0f} / "
            f"{tb / 1e6:.0f} | {x['least'] / 1e6:.0f} | {x['rate'] / 1e6:.0f} | {most} |")
    return "\n".join(lines) + "\n"


def insert(path, text):
    with open(path) as f:
        before, rest = f.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w") as f:
        f.write(f"{before}{BEGIN}\n{text}{END}{after}")


def machine():
    with open("/proc/cpuinfo") as f:
        name = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores of {name}"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--peer-name", default="llama.cpp")
    p.add_argument("--models", default="small,uniform,fable,fable-fine")
    p.add_argument("--codecs", default="bf16,q8,q4")
    p.add_argument("--checkpoint", action="append", default=[], metavar="MODEL=DIR", help="one that exists already")
    p.add_argument("--parts", default="agree,resident,limited")
    p.add_argument("--threads", default="2,1")
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--decode", type=int, default=128)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--limits", default="75,50,25", help="percent of the GGUF file")
    p.add_argument("--limit-prompt", type=int, default=64)
    p.add_argument("--limit-decode", type=int, default=48)
    p.add_argument("--limit-rounds", type=int, default=3)
    p.add_argument("--margin", type=int, default=24, help="MiB of the limit that --ram leaves")
    p.add_argument("--wrap", default="", help="command before each measured program, such as 'nice -n -5'")
    p.add_argument("--build-wrap", default="", help="command before each conversion")
    p.add_argument("--report", metavar="FILE.md", help="put the tables of all results into it; measure nothing")
    a = p.parse_args()
    a.machine = machine()
    a.checkpoint = dict(c.split("=", 1) for c in a.checkpoint)
    b = Bench(a)
    if a.report:
        insert(a.report, tables(b))
        return
    codecs, parts = a.codecs.split(","), a.parts.split(",")
    for name in a.models.split(","):
        b.prepare(name, codecs)
        if "agree" in parts and "bf16" in codecs:
            b.agree(name)
        for threads in a.threads.split(",") if "resident" in parts else []:
            for codec in codecs:
                b.resident(name, codec, int(threads))
        if "limited" not in parts or MODELS[name].get("resident_only"):
            continue
        if not b.root:
            say("runs under a memory limit are left out: cgroups, dropping the page cache and mounting a loop "
                "device need root")
            continue
        for codec in codecs:
            for percent in a.limits.split(","):
                b.limited(name, codec, int(percent))
    print(tables(b))


if __name__ == "__main__":
    main()
