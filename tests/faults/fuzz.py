"""Bad input by the thousand, in one process: what train.py does with it, and whether that is what it promises.

It ends with status 0, or with 2 and one line on stderr: no traceback, nothing half-made, every good checkpoint as it
was. test_fuzz.py runs a few cases of each kind, soak.py many.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import tiny
import torch
from hypothesis import strategies as st

import data.tokens
import train
from settings import main

BASE = {"optimizer": "adam", "max_iters": 6, "eval_interval": 2, "eval_iters": 1, "compile": False}
NAMES = sorted(train.SETTINGS)
# numbers that neither take hours nor fill the memory, and ones that no machine has the memory for
NUMBERS = st.one_of(
    st.integers(-3, 20), st.integers(2**33, 2**70), st.sampled_from([10**400, -(10**30), 2**31, 2**32 - 1]), st.floats()
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=6) | st.sampled_from(["rho", "beta1"]), inner, max_size=3),
    ),
    max_leaves=6,
)
SLOW = {"n_layer", "max_iters"}  # settings whose large values are not errors, but would take forever


def call(*arguments: str) -> tuple[int, str, str]:
    """train.py on the tiny data set, in this process -> status, stdout, stderr. A traceback is status 1."""
    out, error, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["train.py", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            main(train.train, train.__file__)
            status = 0
    except SystemExit as end:
        status = end.code
    except Exception as failure:  # noqa: BLE001 which is what is looked for
        error.write(f"Traceback: {type(failure).__name__}: {failure}")
        status = 1
    finally:
        sys.argv = before
    return status, out.getvalue(), error.getvalue()


def fault(status: int, out: str, error: str) -> str | None:
    """What is wrong with an end, or None."""
    lines = [line for line in error.splitlines() if " settings that no longer exist" not in line]
    lines = [line for line in lines if "the run resumes from" not in line]
    if status not in (0, 2):
        return f"status {status}: {error[-300:]}"
    if status == 2 and (len(lines) != 1 or not lines[0].startswith("train.py: ")):
        return f"not one line: {error[-300:]!r}"
    if "weights_only" in error or "Traceback" in out + error:
        return f"torch's words: {error[-300:]!r}"
    left = [str(path) for path in Path().rglob("*") if path.name.endswith(".part") or path.name == "train.lock"]
    return f"left behind: {left}" if left else None


def arguments(**settings):
    return tiny.arguments(**{**BASE, **settings})


# a good run, made once, of which each case gets a copy


def prepare(folder: Path) -> None:
    """A data set and a good run of 4 steps in `folder`, which becomes the current directory."""
    os.chdir(folder)
    data.tokens.FOLDER = str(tiny.write_data(folder / "data"))
    assert call(*arguments(max_iters=4, out_dir="good"))[0] == 0


def fresh(source="good", target="out"):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def hash_of(out_dir):
    """Of the checkpoints and the record of a run, by name, whatever is set aside under another one."""
    return {path.name: hash(path.read_bytes()) for path in Path(out_dir).iterdir()}


# the kinds of input: a strategy, and what to do with a case of it


def command_line(case) -> str | None:
    shutil.rmtree("out", ignore_errors=True)
    status, out, error = call(*arguments(), *case, "--out_dir=out", "--max_iters=2", "--init_from=scratch")
    found = fault(status, out, error)
    return found or (f"left behind: {os.listdir('out')}" if status == 2 and os.path.exists("out") else None)


def config_file(case: bytes) -> str | None:
    Path("fuzz.py").write_bytes(case)
    return command_line(["fuzz.py"])


def meta_json(case: bytes) -> str | None:
    path = Path(data.tokens.FOLDER, "tiny", "meta.json")
    good = path.read_bytes()
    path.write_bytes(case)
    try:
        return command_line([])
    finally:
        path.write_bytes(good)


def token_file(case: tuple[str, bytes]) -> str | None:
    path = Path(data.tokens.FOLDER, "tiny", f"{case[0]}.bin")
    good = path.read_bytes()
    path.write_bytes(case[1])
    try:
        shutil.rmtree("out", ignore_errors=True)
        return fault(*call(*arguments(max_iters=2)))
    finally:
        path.write_bytes(good)


def checkpoint_bytes(case: tuple[int, bytes, int]) -> str | None:
    """The newest checkpoint has bytes overwritten, and may be cut: the one before it is used, or this one is whole."""
    at, junk, cut = case
    fresh()
    content = bytearray(Path("good/ckpt_last.pt").read_bytes())
    at %= len(content)
    content[at : at + len(junk)] = junk
    os.remove("out/ckpt_last.pt")
    Path("out/ckpt_last.pt").write_bytes(content[: len(content) - cut])
    status, out, error = call(*arguments(init_from="resume"))
    if found := fault(status, out, error):
        return found
    if status:
        return f"status {status}: {error[-300:]}"
    state = torch.load("out/ckpt_last.pt")
    same = tiny.same(state["model"], torch.load("straight/ckpt_last.pt")["model"])
    return None if same and state["iter"] == 6 else f"another end: {error[-300:]}"


def changed(state, path, value):
    """In a state, of dicts and lists, give what is at the end of a path another value."""
    place = state
    for step in path:
        if not isinstance(place, dict | list) or not place:
            break
        keys = sorted(place, key=str) if isinstance(place, dict) else range(len(place))
        holder, key = place, keys[step % len(keys)]
        place = place[key]
    if isinstance(value, str) and value == "gone":
        del holder[key]
    else:
        holder[key] = value


def checkpoint_content(case: tuple[list, object]) -> str | None:
    """A value in the newest checkpoint is changed: the run resumes, or is refused and keeps what it had."""
    fresh()
    state = torch.load("good/ckpt_last.pt")
    changed(state, *case)
    os.remove("out/ckpt_last.pt")
    torch.save(state, "out/ckpt_last.pt")
    before = hash_of("out")
    status, out, error = call(*arguments(init_from="resume"))
    return fault(status, out, error) or (
        "a refused run has changed its files" if status and hash_of("out") != before else None
    )


def metrics_file(case: bytes) -> str | None:
    """Whatever is in metrics.jsonl, a good checkpoint goes on."""
    fresh()
    Path("out/metrics.jsonl").write_bytes(case)
    status, out, error = call(*arguments(init_from="resume"))
    return fault(status, out, error) or (None if status == 0 else f"a good checkpoint was not resumed: {error}")


TEXT = st.text(max_size=20)
VALUES = st.one_of(
    JSON.map(repr), TEXT, st.just(""), st.sampled_from(["nan", "1e999", "None", "()", "{}", "'a'", "1,2"])
)
ARGUMENT = st.one_of(
    st.tuples(st.sampled_from([name for name in NAMES if name not in SLOW]), VALUES).map("--{0[0]}={0[1]}".format),
    st.tuples(st.sampled_from(NAMES), st.sampled_from("abxyz_1")).map("--{0[0]}{0[1]}=1".format),
    TEXT.map("--{}".format),
    TEXT,
)
STATEMENTS = st.sampled_from(
    """n_embd = 32|n_embd = 'x'|import math|from math import pi|from math import *|def beta1(): pass|class seed: pass
exit()|raise SystemExit('a')|exec("dropout = 2.0")|exec("dropout = 0.1")|_x = 3|batch_size = _x|1/0|while|def f(:
del seed|import os as dataset|dropout = dropout + 1j|learn = ['beta1']|learn = ('rho', 'rho')|globals().clear()
assert 0, 'a\\nb'
min_lr = 1.0|weight_decay = -1|hyper_lr = {1: 2}|raise KeyError|lambda: 0|seed = seed|print(|x = 1|eps = float('inf')
learning_rate = float('nan')|out_dir = None|(lambda: (yield))()|raise RecursionError|import nowhere
hyper_momentum = 1.0""".replace("\n", "|").split("|")
)
CONFIG = st.one_of(
    st.lists(STATEMENTS, min_size=1, max_size=4).map(lambda x: "\n".join(x).encode()), st.binary(max_size=40)
)
GOOD_META = {"tokenizer": "char", "chars": tiny.CHARS, "vocab_size": 27, "dtype": "uint16", "source": "tests/tiny.py"}
GOOD_META["counts"] = {"train": 4000, "val": 1000}
META = st.one_of(
    st.tuples(st.sampled_from(sorted(GOOD_META)), JSON).map(lambda x: json.dumps(GOOD_META | {x[0]: x[1]}).encode()),
    st.sampled_from(sorted(GOOD_META)).map(
        lambda x: json.dumps({k: GOOD_META[k] for k in GOOD_META if k != x}).encode()
    ),
    JSON.map(lambda x: json.dumps(x).encode()),
    st.integers(0, 100).map(lambda n: json.dumps(GOOD_META).encode()[:n]),
    st.binary(max_size=20),
)
TOKENS = st.tuples(
    st.sampled_from(["train", "val"]), st.one_of(st.binary(max_size=50), st.binary(min_size=2000, max_size=2000))
)
LINE = st.one_of(
    JSON.map(lambda x: json.dumps(x).encode()),
    st.binary(max_size=20),
    st.fixed_dictionaries({"iter": JSON, "train_loss": JSON}).map(lambda x: json.dumps(x).encode()),
    st.integers(0, 9).map(lambda n: b'{"iter": %d, "val_loss": NaN}' % n),
)
VALUE = st.one_of(
    JSON,
    st.just("gone"),
    st.sampled_from([(3,), (), (2, 2)]).map(torch.zeros),
    st.just(torch.zeros(3, dtype=torch.int64)),
    st.just(torch.full((), float("nan"))),
)
KINDS: dict[str, tuple[st.SearchStrategy, Callable[[object], str | None]]] = {
    "command lines": (st.lists(ARGUMENT, min_size=1, max_size=2), command_line),
    "config files": (CONFIG, config_file),
    "meta.json": (META, meta_json),
    "token files": (TOKENS, token_file),
    "bytes of a checkpoint": (
        st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.sampled_from([0, 0, 1, 1000])),
        checkpoint_bytes,
    ),
    "content of a checkpoint": (
        st.tuples(st.lists(st.integers(0, 10**4), min_size=1, max_size=5), VALUE),
        checkpoint_content,
    ),
    "metrics.jsonl": (st.lists(LINE, max_size=5).map(b"\n".join), metrics_file),
}
