"""Running data/<name>/prepare.py as a user does, for tests/data/, and where the real files are."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data, with the real files, is not here")


def script(name):
    return ROOT / "data" / name / "prepare.py"


def module(name):
    """data/<name>/prepare.py, imported."""
    spec = importlib.util.spec_from_file_location(f"{name}_prepare", script(name))
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def prepare(name, *arguments, largest_file=None):
    """Run it; largest_file (bytes) makes writes fail beyond it, as on a full disk."""
    limited = ["bash", "-c", f'ulimit -f {largest_file // 1024}; exec "$@"', "bash"] if largest_file else []  # KiB
    return subprocess.run(
        [*limited, sys.executable, script(name), *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
    )


def prepared(name, out, *arguments):
    """Run it into the folder out, which it must manage -> meta.json and {split: ids}, checked against each other."""
    done = prepare(name, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    meta, ids = read(out)
    assert not list(out.glob("*.part"))
    assert all(split.max() < meta["vocab_size"] for split in ids.values())
    return meta, ids


def read(out):
    meta = json.loads((out / "meta.json").read_text())
    ids = {split: np.fromfile(out / f"{split}.bin", meta["dtype"]) for split in meta["counts"]}
    assert {split: len(tokens) for split, tokens in ids.items()} == meta["counts"]
    for split in ids:
        assert meta["sha256"][split] == hashlib.sha256((out / f"{split}.bin").read_bytes()).hexdigest()
    return meta, ids


def refused(done, *words):
    """It ended with status 2 and one line, which has all these words."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
