"""What the tests train: a data set of a few thousand characters, a model of a few thousand parameters, on a CPU.

As a script it is train.py on that data, for tests that need processes of their own, and leaves each rank's end state:

    python tests/tiny.py FOLDER --out_dir=out/tiny --max_iters=20        # FOLDER: where write_data put the data set
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import data.tokens
import optim
import train
from settings import STOPPED, declared, main, parse

torch.set_num_threads(
    1
)  # the fastest for so little, and rounding depends on it: all processes of the tests have the same

CHARS = "\nabcdefghijklmnopqrstuvwxyz"
SETTINGS = {
    "dataset": "tiny",
    "batch_size": 8,
    "block_size": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "learning_rate": 1e-2,
    "min_lr": 1e-3,
    "warmup_iters": 2,
    "lr_decay_iters": 8,
    "max_iters": 8,
    "eval_interval": 4,
    "eval_iters": 2,
    "log_interval": 1,
    "device": "cpu",
}


def write_data(folder, vocab_size=27):
    """The data set "tiny" in `folder`: a noisy alphabet, as data/<name>/prepare.py would leave it."""
    rng = np.random.default_rng(0)
    splits = {
        name: (np.arange(size) + rng.integers(0, 2, size)) % len(CHARS)
        for name, size in (("train", 4000), ("val", 1000))
    }
    os.makedirs(folder / "tiny")
    for name, tokens in splits.items():
        tokens.astype(np.uint16).tofile(folder / "tiny" / f"{name}.bin")
    meta = {
        "tokenizer": "char",
        "chars": CHARS,
        "vocab_size": vocab_size,
        "dtype": "uint16",
        "source": "tests/tiny.py",
        "sha256": {name: f"{vocab_size}" for name in splits},
        "counts": {name: len(tokens) for name, tokens in splits.items()},
    }
    (folder / "tiny" / "meta.json").write_text(json.dumps(meta))
    return folder


def arguments(**settings):
    """The command line of a tiny run."""
    return [f"--{name}={value!r}" for name, value in (SETTINGS | settings).items()]


def run(**settings):
    """A tiny run in this process; data.tokens.FOLDER must be where its data is. Returns its validation loss."""
    return train.train(*parse(declared(train.__file__), arguments(**settings)))


def same(a, b):
    """Whether two states are equal bit for bit: tensors in plain containers."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


if __name__ == "__main__":
    data.tokens.FOLDER = sys.argv.pop(1)
    made, build = [], optim.build
    optim.build = lambda *args, **kwargs: made.append(build(*args, **kwargs)) or made[0]
    try:
        main(train.train, train.__file__)
        status = 0
    except SystemExit as end:
        status = end.code
    if status in (0, STOPPED):
        parameters = [group["params"] for optimizer in made for group in optimizer.param_groups]
        state = [parameters, *(optimizer.state_dict() for optimizer in made)]
        torch.save(state, f"{data.tokens.FOLDER}/rank{os.environ.get('RANK', '0')}.pt")
    sys.exit(status)
