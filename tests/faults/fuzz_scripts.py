"""Bad input of what reads a run: scripts/sample.py, plot.py and sweep.py, in one process; see fuzz.py."""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path

import fuzz
import matplotlib.pyplot as plt
import tiny
import torch
from hypothesis import strategies as st

from settings import one_line_errors


@cache
def module(name):
    path = tiny.ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def fault(name: str, *arguments: str) -> str | None:
    """What is wrong with how a script ends: with status 0, or with 2 and one line; or None."""
    out, error, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{name}.py", *arguments]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            one_line_errors(f"{name}.py"),
        ):
            module(name).main()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except Exception as failure:  # noqa: BLE001 which is what is looked for
        return f"Traceback: {type(failure).__name__}: {failure}"
    finally:
        sys.argv = before
    if status == 0 and not out.getvalue():
        return "status 0, and nothing was done"
    lines = error.getvalue().splitlines()
    if status not in (0, 2) or status == 2 and (len(lines) != 1 or not lines[0].startswith(f"{name}.py: ")):
        return f"status {status}, not one line: {error.getvalue()[-300:]!r}"
    return "torch's words" if "weights_only" in error.getvalue() else None


def sample(case) -> str | None:
    """A checkpoint in which a value is another, or some bytes are."""
    how, path = case[0], Path("out", "ckpt_last.pt")
    fuzz.fresh()
    content = bytearray(path.read_bytes())
    os.remove(path)
    if how == "bytes":
        _, at, junk = case
        at %= len(content)
        content[at : at + len(junk)] = junk
        path.write_bytes(content)
    else:
        state = torch.load("good/ckpt_last.pt")
        fuzz.changed(state, *case[1:])
        torch.save(state, path)
    return fault("sample", str(path), "--tokens", "3", "--device", "cpu")


def plot(case: bytes) -> str | None:
    fuzz.fresh()
    header = Path("good/metrics.jsonl").read_bytes().splitlines()[0]
    Path("out/metrics.jsonl").write_bytes(case.replace(b"HEADER", header))
    Path("out/curves.png").unlink(missing_ok=True)
    found = fault("plot", "out")
    plt.close("all")  # a process that plots ends, this one goes on
    return found or (f"left behind: {os.listdir('out')}" if list(Path("out").glob("*.part")) else None)


def sweep(case: tuple[bytes, bytes]) -> str | None:
    """A sweep file, and the state files that runs of it have left."""
    Path("sweep.py").write_bytes(case[0])
    before = set(os.listdir())
    found = fault("sweep", "sweep.py", "--dry_run", "--out", "cells")
    shutil.rmtree("cells", ignore_errors=True)
    return found or (f"left behind: {set(os.listdir()) - before}" if set(os.listdir()) - before else None)


def states(case: bytes) -> str | None:
    """What the state file of a cell says, another's state notwithstanding."""
    text = (tiny.ROOT / "config" / "sweep_shakespeare_betas_smoke.py").read_text()
    Path("sweep.py").write_text(text)
    grid = module("sweep").grid
    for run in grid.cells("sweep.py", [])[0][:2]:
        folder = Path("cells", run.id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_bytes(case)
    try:
        return fault("sweep", "sweep.py", "--dry_run", "--out", "cells")
    finally:
        shutil.rmtree("cells")


STATE = st.one_of(
    fuzz.JSON.map(lambda x: json.dumps(x).encode()),
    st.binary(max_size=20),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["done", "failed", "running", "pending"]) | fuzz.JSON},
        optional={name: fuzz.JSON for name in ("seconds", "error", "host", "pid", "val_loss", "result")},
    ).map(lambda x: json.dumps(x).encode()),
)
KINDS = {
    "checkpoints, to sample from": (
        st.one_of(
            st.tuples(st.just("bytes"), st.integers(0, 10**6), st.binary(min_size=1, max_size=8)),
            st.tuples(st.just("value"), st.lists(st.integers(0, 10**4), min_size=1, max_size=4), fuzz.VALUE),
        ),
        sample,
    ),
    "metrics.jsonl, to plot": (
        st.lists(st.one_of(fuzz.LINE, st.just(b"HEADER")), max_size=5).map(b"\n".join),
        plot,
    ),
    "sweep files": (st.tuples(fuzz.CONFIG), sweep),
    "state files of a sweep's cells": (STATE, states),
}
