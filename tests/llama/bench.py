"""corm-run and llama.cpp side by side, on the same weights and token ids; see README.md.

    bench.py --build DIR --work DIR [--models small,uniform,fable,fable-fine,large,thin,7b]
             [--codecs bf16,q8,q4,q4k] ...

Run by tests/llama/bench.sh, which compiles the helpers. Results are kept in WORK/measured.json, each as soon as
it is there, and all tables in WORK/tables.md, as soon as a model is done; --report puts them into a Markdown
file between its markers.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time

import gguf
import numpy as np

SMALL = "--preset olmoe-7b --layers 8 --dim 1024 --heads 8 --ffn 512 --vocab 8192"
# checkpoint: a folder, or the options of synth that make one, of so many MB. text: a file, "synth", or "-" for
# made-up ids.
MODELS = {
    "small": dict(synth=SMALL, mb=1712, text="synth", what="OLMoE-shaped, 0.86 B, local routing"),
    "uniform": dict(synth=SMALL + " --topic 0.001 --common 0.001", mb=1712, text="-",
                    what="the same shape, uniform routing"),
    "fable": dict(checkpoint="tests/models/fable", text="tests/golden/heldout.txt",
                  what="fable (mixtral, 13 M)", resident_only=True),
    "fable-fine": dict(checkpoint="tests/models/fable-fine", text="tests/golden/heldout.txt",
                       what="fable-fine (qwen3_moe, 13 M)", resident_only=True),
    "large": dict(synth="--preset mixtral-small --layers 2 --dim 4096 --heads 32 --kv-heads 8 --ffn 14336 "
                  "--vocab 8192", mb=5950, text="synth", what="Mixtral-shaped, 2 layers, 8 experts of 14336 x 4096"),
    "thin": dict(synth="--preset qwen3-30b-small --layers 2 --dim 2048 --heads 32 --kv-heads 4 --head-dim 128 "
                 "--ffn 768 --vocab 8192", mb=2570, text="synth",
                 what="Qwen3-shaped, 2 layers, 128 experts of 768 x 2048"),
    "7b": dict(synth="--preset olmoe-7b", mb=13840, text="synth", what="OLMoE-shaped, 6.9 B"),
}
# Our archive, its codec of experts and of the trunk; GGUF's types of both. Q4_K_M is llama.cpp's own mixture, of
# the whole file; it has rows of a multiple of so many columns. size: of both files, over the checkpoint's.
CODECS = {"bf16": dict(ours="bf16", experts="keep", trunk="keep", gguf=("bf16", "bf16"), size=1.75),
          "q8": dict(ours="q8", experts="q8", trunk="q8", gguf=("q8_0", "q8_0"), size=1.1),
          "q4": dict(ours="q4", experts="q4", trunk="q8", gguf=("q4_0", "q8_0"), size=0.65),
          "q4k": dict(ours="q4", experts="q4", trunk="q8", gguf=("q4_k_m", "q4_k_m"), size=0.65),
          "q8-bf16": dict(ours="q8-bf16", experts="q8", trunk="keep", gguf=("q8_0", "bf16"), size=1.2)}
Q4_K_M_COLUMNS = 256
BEGIN, END = "<!-- llama: begin -->", "<!-- llama: end -->"
READ_AHEAD_KB = 128
NO_CGROUP = 99  # exit status of a script
MIB = 1 << 20
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def say(text):
    print(f"bench-llama: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


class Bench:
    def __init__(self, args):
        self.a = args
        self.path = os.path.join(args.work, "measured.json")
        self.results = json.load(open(self.path)) if os.path.exists(self.path) else {}
        self.root = os.geteuid() == 0
        self.raised = set()  # models and codecs that were measured in the least memory that ours works in

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

    def check_room(self, name, codecs):
        """The disk that a model takes, before the first byte is written."""
        need = MODELS[name].get("mb", 0) * (1 + sum(CODECS[c]["size"] for c in codecs))
        made = sum(os.stat(os.path.join(at, f)).st_blocks * 512
                   for place in (name, name + "-hf") for at, _, files in os.walk(os.path.join(self.a.work, place))
                   for f in files) / 1e6
        free = shutil.disk_usage(self.a.work).free / 1e6
        if need > made + free:
            raise SystemExit(f"bench-llama: {name}: its files take {need:.0f} MB in {self.a.work}, {made:.0f} MB are "
                             f"there and {free:.0f} MB free: leave out codecs or models, or use --drop")
        if need:
            say(f"{name}: up to {need:.0f} MB of disk; {made:.0f} MB are there, {free:.0f} MB free")

    def drop(self, name):
        """Remove what `prepare` made of a model."""
        folder = os.path.join(self.a.work, name)
        if os.path.ismount(folder):
            run(["umount", "-d", folder])
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder + "-hf", ignore_errors=True)
        if os.path.exists(folder + ".img"):
            os.remove(folder + ".img")

    def prepare(self, name, codecs):
        """Make the model's files. Returns the codecs that it can have."""
        m = MODELS[name]
        source = self.a.checkpoint.get(name) or m.get("checkpoint")
        if not source:
            self.check_room(name, codecs)
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
        with open(os.path.join(source, "config.json")) as f:
            config = json.load(f)
        widths = [config["hidden_size"], config.get("moe_intermediate_size", config["intermediate_size"])]
        if "q4k" in codecs and any(w % Q4_K_M_COLUMNS for w in widths):
            say(f"{name}: no Q4_K_M, rows of {widths} columns are no multiples of {Q4_K_M_COLUMNS}")
            codecs = [c for c in codecs if c != "q4k"]
        for codec in codecs:
            self.convert(name, source, codec)
            self.keep("bytes", f"{name} {codec}", [os.path.getsize(f) for f in self.files(name, codec)]
                      + [bytes_a_token(self.files(name, codec)[1])])
        m["ids"] = os.path.join(self.a.work, name + ".ids")
        m["n_ids"] = self.a.prompt + self.a.decode
        run([self.tool("trace"), self.files(name, codecs[0])[0], text, m["ids"], 0, m["n_ids"]])
        return codecs

    def convert(self, name, source, codec):
        """Both programs' files, where they are not there."""
        c, wrap = CODECS[codec], shlex.split(self.a.build_wrap)
        ours, theirs = self.files(name, codec)
        if not os.path.exists(ours):
            say(f"converting {ours}")
            run(wrap + [self.tool("corm-prep"), "convert", source, "-q", "--codec", c["experts"], "--trunk",
                        c["trunk"], "-o", ours])
        if os.path.exists(theirs):
            return
        say(f"converting {theirs}")
        if c["gguf"][0] != "q4_k_m":
            run(wrap + [sys.executable, "tests/llama/gguf_from_hf.py", source, theirs, "--experts", c["gguf"][0],
                        "--trunk", c["gguf"][1]])
            return
        whole = self.files(name, "bf16")[1]
        made = not os.path.exists(whole)
        if made:
            run(wrap + [sys.executable, "tests/llama/gguf_from_hf.py", source, whole])
        run(wrap + [self.tool("peer"), "quantise", whole, theirs + ".part"], stdout=subprocess.DEVNULL)
        os.rename(theirs + ".part", theirs)
        if made:
            os.remove(whole)

    def files(self, name, codec):
        folder = MODELS[name]["folder"]
        return os.path.join(folder, CODECS[codec]["ours"] + ".corm"), os.path.join(folder, codec + ".gguf")

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
        for way in ["default", "plain"] + (["repack"] if CODECS[codec]["gguf"][0].startswith("q4") else []):
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
        speeds = {who: dict(prefill=[], decode=[]) for who in ["ours"] + ways}
        commands = [[self.tool("corm-run"), "bench", ours, "-q", "--json", "--threads", threads, "--batch", 512,
                     "--prompt-tokens", a.prompt, "--decode-tokens", a.decode, "--reps", a.reps]
                    + ([] if text == "-" else ["-f", text])]
        commands += [[self.tool("peer"), "bench", theirs, MODELS[name]["ids"], a.prompt, a.decode, a.reps,
                      threads, way] for way in ways]
        for who, done in zip((["ours"] + ways) * a.rounds, self.timed(commands * a.rounds)):
            j = json.loads(done[0]) if done else None
            if done and who == "ours":
                speeds[who]["bytes"] = j["decode"]["weight_bytes_per_tok"]
                for part in ("prefill", "decode"):
                    speeds[who][part].append(j[part]["tok_per_s"])
            elif done:
                middle = a.reps // 2  # as corm-run takes it: the slower middle one
                for part, n in (("prefill", a.prompt), ("decode", a.decode)):
                    speeds[who][part].append(n / sorted(j[part + "_s"])[middle])
        self.keep("resident", f"{name} {codec} {threads}", {w: x for w, x in speeds.items() if x["decode"]})

    # ---- under a memory limit ----

    def limited(self, name, codec, percent):
        a, (ours, theirs) = self.a, self.files(name, codec)
        text = MODELS[name]["source"]
        n, prompt = a.limit_decode, a.limit_prompt
        rows = dict(ours=[], theirs=[])
        room = 0
        command = [self.tool("corm-run"), "bench", ours, "--json", "--threads", 2, "--prompt-tokens", prompt,
                   "--decode-tokens", n, "--reps", 1] + ([] if text == "-" else ["-f", text])
        limit = os.path.getsize(theirs) * percent // 100
        least = least_budget(command) + a.margin * MIB
        if limit < least:
            too_few = f"{name} {codec} {percent} %: {limit >> 20} MiB are too few, ours needs {least >> 20} MiB"
            if least >= os.path.getsize(theirs) or (name, codec) in self.raised:
                say(f"{too_few}: left out, as that is {'measured' if (name, codec) in self.raised else 'the whole'}")
                return
            say(f"{too_few}, which is the limit")
            self.raised.add((name, codec))
            limit = least
        commands = [command + ["--ram", limit - a.margin * MIB],
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
                rows["ours"].append([j["decode"]["tok_per_s"], j["decode"]["archive_bytes_per_tok"]])
                room = share_of_experts(done[1])
            elif done:
                rows["theirs"].append([n / j["decode_s"][0], j["decode_bytes"] / n])
        row = {who: all_ for who, all_ in rows.items() if all_}
        row.update(limit=limit, whole=os.path.getsize(theirs), room=room, rate=best_direct_rate(io[0]) if io else 0)
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

    def measure(self, name):
        parts = self.a.parts.split(",")
        codecs = self.prepare(name, self.a.codecs.split(","))
        if "agree" in parts and "bf16" in codecs:
            self.agree(name)
        for threads in self.a.threads.split(",") if "resident" in parts else []:
            for codec in codecs:
                self.resident(name, codec, int(threads))
        if "limited" not in parts or MODELS[name].get("resident_only"):
            return
        if not self.root:
            say("runs under a memory limit are left out: cgroups, dropping the page cache and mounting a loop "
                "device need root")
            return
        for codec in codecs:
            for percent in self.a.limits.split(","):
                self.limited(name, codec, int(percent))


def least_budget(command):
    """The least --ram with which that command of corm-run works: what it names when it refuses less."""
    done = subprocess.run([str(c) for c in command] + ["--ram", "1M"], capture_output=True, text=True)
    m = re.search(r"too small: ([\d.]+) (\w+) would do", done.stderr)
    if not m:
        raise SystemExit(f"bench-llama: corm-run names no least budget: {done.stderr.strip()[-300:]}")
    return int(float(m[1]) * UNITS[m[2]]) + MIB  # it rounds


def bytes_a_token(path):
    """Bytes of weights that a GGUF file has for one token: all but the embedding, and of experts those in use."""
    r = gguf.GGUFReader(path)
    fields = {key.split(".")[-1]: f for key, f in r.fields.items() if ".expert_" in key}
    n, used = (int(fields[k].parts[-1][0]) for k in ("expert_count", "expert_used_count"))
    tied = not any(t.name == "output.weight" for t in r.tensors)
    return sum(int(t.n_bytes) * (used / n if "_exps" in t.name else 1) for t in r.tensors
               if tied or t.name != "token_embd.weight")


def best_direct_rate(io):
    return max(r["bytes_per_s"] for r in json.loads(io)["rows"] if r["way"] == "direct")


def share_of_experts(plan):
    """The share of all experts for which there is room, of corm-run's memory plan."""
    m = re.search(r"experts ([\d.]+) (\w+) of ([\d.]+) (\w+), KV", plan)
    return float(m[1]) * UNITS[m[2]] / (float(m[3]) * UNITS[m[4]])


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

def ratio(ours, theirs):
    """Ours over theirs: of the medians, and the least and the greatest of rounds, which ran in turn."""
    each = [a / b for a, b in zip(ours, theirs)]
    text = f"**{statistics.median(ours) / statistics.median(theirs):.2f}**"
    return text + (f" ({min(each):.2f}-{max(each):.2f})" if len(each) > 1 else "")


def resident_row(r, key, x):
    name, codec, threads = key.split()
    if "ours" not in x or len(x) < 2:
        who = "theirs" if "ours" in x else "ours"
        return f"| {name} | {codec} | {threads} | {who}: ended without a result | | | | |"
    cells = []
    for part in ("prefill", "decode"):
        way = max((w for w in x if w != "ours"), key=lambda w: statistics.median(x[w][part]))
        o, t = x["ours"][part], x[way][part]
        cells += [f"{statistics.median(o):.0f} / {statistics.median(t):.0f} ({way})", ratio(o, t)]
    theirs = r["bytes"][f"{name} {codec}"][2]
    cells.append(f"{x['ours']['bytes'] / 1e6:.1f} / {theirs / 1e6:.1f}")
    return f"| {name} | {codec} | {threads} | {' | '.join(cells)} |"


def limited_row(key, x):
    name, codec, percent = key.split()
    percent = round(100 * x["limit"] / x["whole"])
    head = f"| {name} | {codec} | {percent} % = {x['limit'] / 1e6:.0f} MB |"
    if "ours" not in x or "theirs" not in x:
        who = " and ".join(w for w in ("ours", "theirs") if w not in x)
        return f"{head} {who}: ended without a result | | | | | |"
    (o, ob), (t, tb) = ([list(v) for v in zip(*x[who])] for who in ("ours", "theirs"))
    most = f"{x['rate'] / x['least']:.1f}" if x["least"] else "-"
    middle = statistics.median
    return (f"{head} {middle(o):.2f} / {middle(t):.2f} | {ratio(o, t)} | {middle(ob) / 1e6:.0f} / "
            f"{middle(tb) / 1e6:.0f} | {x['least'] / 1e6:.0f} | {x['rate'] / 1e6:.0f} | {most} |")


def tables(b, only=None):
    """Tables of all models measured, or of one."""
    r = {kind: {k: v for k, v in rows.items() if only is None or k.split()[0] == only or kind == "dies"}
         for kind, rows in b.results.items()}
    lines = []
    out = lines.append
    out(f"Peer: {b.a.peer_name}; {b.a.machine}. Models are named in `tests/llama/bench.py`; the same weights and "
        "token ids on both sides, runs in turn. `ours / theirs`, medians of tokens a second; in brackets the least "
        "and the greatest ratio of rounds.\n")
    if r.get("agree"):
        out("**The same function.** Weights in bf16, 256 tokens:\n")
        out("| model | same best token | mean KL, nats | RMS of the difference / of the logits |\n|---|---|---|---|")
    for name, x in r.get("agree", {}).items():
        out(f"| {MODELS[name]['what']} | {100 * x['same_best']:.1f} % | {x['kl']:.1e} | {x['rms']:.4f} |")
    if r.get("resident"):
        out("\n**All in memory**, prompt of "
            f"{b.a.prompt}, then {b.a.decode} tokens one by one. Of llama.cpp's ways of holding weights the best in "
            "each cell. *MB a token*: weights that decoding a token takes from memory. q4 is beside Q4_0, q4k the same "
            "archive beside llama.cpp's Q4_K_M.\n")
        out("| model | codec | threads | prefill | ratio | decode | ratio | MB a token |\n"
            "|---|---|---|---|---|---|---|---|")
        lines += [resident_row(r, key, x) for key, x in r["resident"].items()]
    dead = ", ".join(r.get("dies", {}))
    if dead:
        out(f"\nIts ways that ended with a signal on this machine and are left out: {dead}.")
    if r.get("limited"):
        out(f"\n**Under a memory limit** (cgroup; page cache dropped; 2 threads; prompt {b.a.limit_prompt}, then "
            f"{b.a.limit_decode} tokens; loop device with {READ_AHEAD_KB} KiB of readahead). *limit*: share of the "
            "GGUF file, or the least that ours works in. *least*: what a cache that knows the future (Belady) would "
            "read in the room that ours had, and the speed if only the device (its best direct rate) were in the "
            "way.\n")
        out("| model | codec | limit | tok/s | ratio | MB read a token | least | device MB/s | at most tok/s |\n"
            "|---|---|---|---|---|---|---|---|---|")
        lines += [limited_row(key, x) for key, x in r["limited"].items()]
    return "\n".join(lines) + "\n"


def insert(path, text):
    with open(path) as f:
        before, rest = f.read().split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w") as f:
        f.write(f"{before}{BEGIN}\n{text}{END}{after}")


def machine():
    def first(path, start):
        with open(path) as f:
            return next((line.split(":")[1].strip() for line in f if line.startswith(start)), "?")
    ids = "/".join(first("/proc/cpuinfo", k) for k in ("cpu family", "model\t"))
    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / 1e6
    return (f"{os.cpu_count()} cores of {first('/proc/cpuinfo', 'model name')} (family and model {ids}), "
            f"{memory:.1f} GB of memory, Linux {os.uname().release}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--peer-name", default="llama.cpp")
    p.add_argument("--models", default="small,uniform,fable,fable-fine,large,thin")
    p.add_argument("--codecs", default="bf16,q8,q4,q4k")
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
    p.add_argument("--drop", action="store_true", help="remove a model's files once it is measured")
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
    for name in a.models.split(","):
        b.measure(name)
        print(tables(b, name), flush=True)
        with open(os.path.join(a.work, "tables.md"), "w") as f:
            f.write(tables(b))
        if a.drop:
            b.drop(name)


if __name__ == "__main__":
    main()
