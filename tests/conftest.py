"""Fixtures for all tests: scripts, loops that are made in the test, no compiler; and a quick garbage collector."""

import gc
import os
import runpy
import sys

import pytest
import tiny

import data.tokens
from optim import fuse
from optim.codegen import Unavailable
from optim.hyper import descent
from optim.passes import gradient_norms, passes

GPT2_FILES = tiny.ROOT.parent / "shared" / "data" / "tiktoken_cache"
if GPT2_FILES.is_dir():  # else data/tokenizers.py gets them; processes that tests start inherit it
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(GPT2_FILES))


@pytest.fixture
def script(monkeypatch, capsys):
    """Run scripts/<name>.py with arguments -> exit status, stdout, stderr."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(tiny.ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the tiny data set is, for this process, which works in a folder of its own."""
    monkeypatch.setattr(data.tokens, "FOLDER", tiny.write_data(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def forget():
    """Call it to have loops made anew. What a test has made is forgotten after it."""

    def clear():
        for cache in (passes, gradient_norms, descent, fuse.warn_once):
            cache.cache_clear()

    clear()
    yield clear
    clear()


@pytest.fixture
def no_compiler(forget, monkeypatch):
    """Call it to have no compiler from then on."""

    def refuse(loop, dtypes):
        raise Unavailable("the test forbids it")

    def remove():
        monkeypatch.setitem(fuse.BUILDERS, "cpu", refuse)
        forget()

    return remove


def pytest_collection_finish():
    gc.freeze()  # what has been imported stays; else each collection takes half a second, and a training run makes two
