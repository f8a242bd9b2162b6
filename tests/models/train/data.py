"""Text to token streams: `python data.py CORPUS TOKENIZER OUT` writes OUT/{modern,simple,valid}.bin.

A stream is uint16 ids; every document is `<|endoftext|>` (id 0) followed by its text, stripped of
newlines at both ends. A training row is a window at a random place of a stream, so that a repeated
document is never seen at the same positions twice. Rows of dialogues (dialogues.py) begin where
one does; what is marked there as not learned is left out of the loss, and what was asked for counts
more than the rest.
"""
import os
import subprocess
import sys

import numpy as np
import torch
from tokenizers import Tokenizer

SEPARATOR = "<|endoftext|>"
FOREIGN = 0x8000        # added to ids that are read and not learned
ASKED = 0x4000          # added to ids of a name or thing that was asked for, where an answer first says it


def documents(corpus, name):
    path = os.path.join(corpus, name)
    if name.endswith(".zst"):
        text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout.decode()
    else:
        with open(path, encoding="utf-8") as f:
            text = f.read()
    return [d for d in (part.strip("\n") for part in text.split(SEPARATOR)) if d]


def pack(tokenizer, docs):
    ids = []
    for i in range(0, len(docs), 500):
        for e in tokenizer.encode_batch(docs[i:i + 500], add_special_tokens=False):
            ids += [0] + e.ids
    return np.array(ids, dtype=np.uint16)


class Sampler:
    """Rows for training: each is of `dialogues` with the given chance; the others come from `modern`
    with theirs, else from `simple`."""

    def __init__(self, folder, seed, dialogues=0.0, asked=1.0):
        names = ("simple", "modern", "dialogues") if dialogues else ("simple", "modern")
        self.streams = [np.memmap(os.path.join(folder, n + ".bin"), np.uint16, "r") for n in names]
        self.dialogues, self.asked = dialogues, asked
        self.starts = np.flatnonzero(self.streams[2] == FOREIGN) if dialogues else None
        self.rng = np.random.default_rng(seed)

    def rows(self, count, length, modern_share):
        """(tokens [count, length], labels, and what each label counts in the loss, of the same shape)"""
        out = np.empty((count, length + 1), dtype=np.int64)
        for row in out:
            if self.dialogues and self.rng.random() < self.dialogues:
                stream = self.streams[2]
                last = np.searchsorted(self.starts, len(stream) - length)
                start = self.starts[self.rng.integers(last)]
            else:
                stream = self.streams[int(self.rng.random() < modern_share)]
                start = self.rng.integers(len(stream) - length)
            row[:] = stream[start:start + length + 1]
        ids, marks = torch.from_numpy(out & (ASKED - 1)), torch.from_numpy(out[:, 1:])
        counts = torch.where(marks & ASKED != 0, self.asked, 1.0) * (marks < FOREIGN)
        return ids[:, :-1], ids[:, 1:], counts


if __name__ == "__main__":
    corpus, tokenizer_file, out = sys.argv[1:]
    tok = Tokenizer.from_file(tokenizer_file)
    os.makedirs(out, exist_ok=True)
    for source in ("modern.txt.zst", "simple.txt.zst", "valid.txt"):
        stream = pack(tok, documents(corpus, source))
        stream.tofile(os.path.join(out, source.split(".")[0] + ".bin"))
        print(f"{source}: {len(stream)} tokens")
