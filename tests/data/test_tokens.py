"""Reading batches: the tokens at the right places, and no more of the file than they take.

python -m pytest -q tests/data/test_tokens.py
"""

import ctypes
import json
import mmap
import os
import sys

import numpy as np
import pytest

import data.tokens
from data.prepared import write_tokens
from data.tokens import Tokens, splits
from settings import UserError

PAGE = mmap.PAGESIZE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(data.tokens, "FOLDER", str(tmp_path))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "prepare.py").touch()
    return tmp_path / "text"


def write_meta(folder, size, **meta):
    meta = {"dtype": "uint16", "vocab_size": 50257, "tokenizer": "gpt2", "counts": {"train": size}} | meta
    (folder / "meta.json").write_text(json.dumps(meta))


def cached_bytes(path):
    """How much of a file is in the page cache, by mincore."""
    size = os.path.getsize(path)
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        view = (ctypes.c_char * size).from_buffer(pages)
        present = (ctypes.c_ubyte * -(-size // PAGE))()
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), present) == 0
        del view
    return PAGE * sum(byte & 1 for byte in present)


def test_a_split_that_the_data_set_does_not_have_is_named(folder):
    """And not: run its prepare.py, which would not make it."""
    write_meta(folder, 0, counts={"test": 5000})
    with pytest.raises(UserError, match="dataset='text' has no train, only test"):
        Tokens("text", "train", 64)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_windows_are_the_tokens_at_their_starts(folder, dtype):
    ids = np.random.default_rng(0).integers(0, 50257, 5000).astype(dtype)
    ids.tofile(folder / "train.bin")
    write_meta(folder, len(ids), dtype=dtype)
    tokens = Tokens("text", "train", 64)
    starts = np.append(tokens.random_starts(0, 0, 50), [0, 5000 - 65, 5000 - 65, 1])
    x, y = tokens.windows(starts)
    assert x.shape == y.shape == (54, 64)
    for start, row, targets in zip(starts, x.tolist(), y.tolist()):
        assert row == ids[start : start + 64].tolist() and targets == ids[start + 1 : start + 65].tolist()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mincore and posix_fadvise as Linux has them")
def test_a_batch_from_a_cold_file_reads_its_windows_only(folder):
    """60 windows of 2,050 bytes lie on at most two pages each; reading ahead would take up to megabytes for each."""
    path, size = folder / "train.bin", 1 << 29
    path.touch()
    os.truncate(path, 2 * size)  # of holes, which cost no disk
    write_meta(folder, size)
    tokens = Tokens("text", "train", 1024)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert cached_bytes(path) == 0
    tokens.windows(tokens.random_starts(0, 0, 60))
    assert 0 < cached_bytes(path) <= 60 * 2 * PAGE


def test_a_file_that_is_cut_meanwhile_is_one_line(folder):
    np.zeros(5000, np.uint16).tofile(folder / "train.bin")
    write_meta(folder, 5000)
    tokens = Tokens("text", "train", 64)
    os.truncate(folder / "train.bin", 9000)
    assert tokens.windows([4500 - 65])[0].sum() == 0
    with pytest.raises(UserError, match="train.bin has become shorter"):
        tokens.windows([0, 4500 - 64])


def test_data_that_are_prepared_anew_meanwhile_do_not_change_a_run(folder):
    write_tokens(folder, {"train": [np.zeros(5000, int)]}, 65, source="drawn")
    tokens = Tokens("text", "train", 64)
    write_tokens(folder, {"train": [np.ones(5000, int)]}, 65, source="drawn again")
    assert tokens.windows([0])[0].sum() == 0


def test_a_file_that_has_changed_is_found_out_by_a_sample_or_by_all_of_it(folder):
    ids = np.random.default_rng(0).integers(0, 65, 400_000)
    write_tokens(folder, {"train": [ids], "val": [ids]}, 65, source="drawn")
    splits("text", 64)
    splits("text", 64, verify=True)
    for position, sampled in ((0, True), (399_999, True), (2048 * 5, False)):
        changed = ids.astype(np.uint16)
        changed[position] += 1
        changed.tofile(folder / "val.bin")
        for verify in (False, True):
            if sampled or verify:
                with pytest.raises(UserError, match="val.bin is not the file that its meta.json describes"):
                    splits("text", 64, verify)
            else:
                splits("text", 64, verify)


def test_without_hashes_a_sample_is_of_the_vocabulary_and_verify_says_what_is_missing(folder):
    np.arange(5000, dtype=np.uint16).tofile(folder / "train.bin")
    np.arange(5000, dtype=np.uint16).tofile(folder / "val.bin")
    write_meta(folder, 5000, counts={"train": 5000, "val": 5000}, source="")
    splits("text", 64)
    with pytest.raises(UserError, match="meta.json is damaged .KeyError: 'sha256'.: prepare it again"):
        splits("text", 64, verify=True)
    write_meta(folder, 5000, counts={"train": 5000, "val": 5000}, source="", vocab_size=4000)
    with pytest.raises(UserError, match="train.bin holds token 4999, beyond the 4000"):
        splits("text", 64)


@pytest.mark.parametrize("size", [0, -1, 2**32, 10**200, 6.5, True])
def test_a_vocabulary_that_makes_no_sense(folder, size):
    np.arange(500, dtype=np.uint16).tofile(folder / "train.bin")
    np.arange(500, dtype=np.uint16).tofile(folder / "val.bin")
    write_meta(folder, 500, counts={"train": 500, "val": 500}, source="", vocab_size=size)
    with pytest.raises(UserError, match="meta.json is damaged"):
        splits("text", 64)
