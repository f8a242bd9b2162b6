"""Evaluates a small task by lm_eval's local-completions: talk_lm_eval.py PORT CORM_RUN ARCHIVE FOLDER.

What it says of each end of a story, how likely it is and whether it is the one that a greedy model gives, has to be what
follows from the logits that corm-run writes for the same ids."""

import os
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
import numpy
import requests
from lm_eval.tasks import TaskManager

port, corm_run, archive, folder = sys.argv[1:]
here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm_eval")
base = f"http://127.0.0.1:{port}"
tasks = os.path.join(folder, "tasks")
os.makedirs(tasks, exist_ok=True)
os.environ["HF_HOME"] = os.path.join(os.path.abspath(folder), "hf")
with open(os.path.join(here, "fable.yaml"), encoding="utf-8") as f:
    text = f.read().replace("DATA", os.path.join(here, "fable.jsonl"))
with open(os.path.join(tasks, "fable.yaml"), "w", encoding="utf-8") as f:
    f.write(text)

got = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={"base_url": base + "/v1/completions", "model": "fable", "tokenizer_backend": "remote", "max_length": 1024,
                "num_concurrent": 2, "max_retries": 1},
    batch_size=3, tasks=["fable"], task_manager=TaskManager(include_path=tasks, include_defaults=False), log_samples=True,
    bootstrap_iters=0)


def ids_of(text):
    return requests.post(base + "/tokenize", json={"prompt": text, "add_special_tokens": False}, timeout=60).json()["tokens"]


def logits_of(ids):
    """The row of each id has the logits of what comes after it."""
    path = os.path.join(folder, "logits.npy")
    subprocess.run([corm_run, "logits", archive, "--ids", ",".join(map(str, ids)), "-o", path, "-q"], check=True,
                   stdout=subprocess.DEVNULL)
    return numpy.load(path).astype(numpy.float64)


worst, n, greedy = 0.0, 0, 0
for sample in got["samples"]["fable"]:
    for (context, end), said in zip([a for a in sample["arguments"]], sample["filtered_resps"]):
        whole, begin = ids_of(context + end), len(ids_of(context))
        rows = logits_of(whole)[begin - 1:-1]
        top = rows.max(axis=1)
        logprobs = rows - top[:, None] - numpy.log(numpy.exp(rows - top[:, None]).sum(axis=1))[:, None]
        ends = numpy.array(whole[begin:])
        want = logprobs[numpy.arange(len(ends)), ends].sum()
        is_greedy = bool((rows.argmax(axis=1) == ends).all())
        worst = max(worst, abs(want - float(said[0])) / len(ends))
        n, greedy = n + 1, greedy + is_greedy
        assert str(said[1]) == str(is_greedy), (context, end, said, want)
assert n == 18 and worst < 1e-5, (n, worst)
assert 0 < greedy < n, greedy
print(f"ok lm_eval: {n} ends of stories, at most {worst:.1e} a token beside corm-run logits; acc",
      got["results"]["fable"]["acc,none"])
