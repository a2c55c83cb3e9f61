"""OpenWebText: nanoGPT's split, every kind of source, interruption anywhere, and refusals before the work.

python -m pytest tests/data/test_openwebtext.py
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from prepare_script import ROOT, SHARED, module, needs_shared, prepare, prepared, read, refused, script

from data.documents import count_documents, document_files, documents
from data.tokenizers import GPT2, Bytes
from settings import UserError

N = 6000
TEXTS = [f"Document {i}.\nIt has {'many ' * (i % 50)}words, like café.\n" for i in range(N)]


def write_jsonl(path, texts, url="x" * 1000):
    """The url makes the file long enough to be read in several pieces."""
    path.write_text("".join(json.dumps({"text": text, "url": url}) + "\n" for text in texts))


def write_bins(folder, ids):
    """The token files that nanoGPT's prepare.py leaves -> their folder."""
    folder.mkdir()
    for split, tokens in ids.items():
        tokens.tofile(folder / f"{split}.bin")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "documents.jsonl"
    write_jsonl(path, TEXTS)
    return path


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory):
    """meta.json and ids of an uninterrupted run on all documents."""
    return prepared("openwebtext", tmp_path_factory.mktemp("straight"), "--source", source, "--workers", 2)


def same(a, b):
    return a[0]["counts"] == b[0]["counts"] and all(
        np.array_equal(a[1][split], b[1][split]) for split in ("train", "val")
    )


def test_split_is_that_of_nanogpt_and_order_that_of_the_source(straight):
    import datasets

    split = datasets.Dataset.from_dict({"i": range(N)}).train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    tokenizer = GPT2()
    for name, theirs in (("val", split["test"]["i"]), ("train", split["train"]["i"])):
        expected = [token for i in sorted(theirs) for token in [*tokenizer.bpe.encode_ordinary(TEXTS[i]), GPT2.end]]
        assert straight[1][name].tolist() == expected
    assert straight[0]["documents"] == N and (straight[1]["val"] == GPT2.end).sum() == math.ceil(0.0005 * N)


def test_parquet_and_txt_give_the_same(straight, tmp_path):
    folder, txt = tmp_path / "parquet", tmp_path / "documents.txt"
    folder.mkdir()
    for i in range(3):
        part = TEXTS[i * N // 3 : (i + 1) * N // 3]
        pyarrow.parquet.write_table(pyarrow.table({"text": part}), folder / f"train-{i}.parquet", row_group_size=500)
    txt.write_text("<|endoftext|>\n".join(TEXTS))
    assert same(straight, prepared("openwebtext", tmp_path / "a", "--source", folder, "--workers", 1))
    assert same(straight, prepared("openwebtext", tmp_path / "b", "--source", txt, "--workers", 1))


def test_after_a_full_disk_the_same_command_goes_on(source, straight, tmp_path):
    arguments = ("openwebtext", "--source", source, "--out", tmp_path, "--workers", 1)
    refused(prepare(*arguments, largest_file=300_000), "cannot be written", "continues after document")
    assert (
        not (tmp_path / "meta.json").exists() and json.loads((tmp_path / "progress.part").read_text())["documents"] > 0
    )
    again = prepare(*arguments)
    assert "continuing after document" in again.stdout, again.stderr
    assert same(straight, read(tmp_path)) and len(list(tmp_path.iterdir())) == 3


STOPPED = """
import contextlib, multiprocessing, os, runpy, signal, sys
import data.prepared
script, name, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
whole_file = data.prepared.whole_file

@contextlib.contextmanager
def noting(path):
    global left
    with whole_file(path) as file:
        yield file
    left -= path.name == "progress.part"
    if not left and name == "worker":
        multiprocessing.active_children()[0].kill()
    elif not left:
        os.kill(os.getpid(), getattr(signal, name))

data.prepared.whole_file = noting
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""


def test_killed_or_interrupted_it_goes_on(tmp_path):
    """It stops itself right after it has noted its progress, the first time in a run: then there is more to do."""
    texts, out = [f"Text {i}. " + " ".join(str(j * i) for j in range(400)) for i in range(30)], tmp_path / "out"
    write_jsonl(tmp_path / "long.jsonl", texts * (N // 30))
    arguments = ("--source", tmp_path / "long.jsonl", "--out", out, "--workers", "1")
    noted = [0]
    for stop, status in (("SIGKILL", -9), ("SIGINT", 2), ("worker", 2)):
        stopped = subprocess.run(
            [sys.executable, "-c", STOPPED, script("openwebtext"), stop, "1", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        noted.append(json.loads((out / "progress.part").read_text())["documents"])
        assert stopped.returncode == status and not (out / "meta.json").exists(), stopped.stderr
        assert N > noted[-1] > noted[-2] and (noted[-2] == 0 or f"after document {noted[-2]:,}" in stopped.stdout)
        if stop == "SIGINT":
            refused(stopped, f"prepare.py: interrupted; the same command continues after document {noted[-1]:,}")
        if stop == "worker":
            refused(stopped, "prepare.py: a worker died, perhaps out of memory: the same command with fewer")
        assert (out / "pieces.part").exists() == (stop == "SIGKILL")
    _, ids = prepared("openwebtext", out, "--source", tmp_path / "long.jsonl", "--workers", 1)
    tokens = [np.array([*GPT2().bpe.encode_ordinary(text), GPT2.end]) for text in texts]
    chosen = np.sort(np.random.default_rng(2357).permutation(N)[:3])
    assert np.array_equal(ids["val"], np.concatenate([tokens[i % 30] for i in chosen]))
    assert np.array_equal(ids["train"], np.concatenate([tokens[i % 30] for i in range(N) if i not in chosen]))


def test_a_worker_stops_within_a_piece_that_nobody_waits_for(tmp_path, monkeypatch):
    loaded, folder = module("openwebtext"), tmp_path / "pieces.part"
    monkeypatch.setattr(loaded, "tokenizer", Bytes(), raising=False)
    folder.mkdir()

    def texts(piece):
        for i in range(1000):
            if i == 100:
                shutil.rmtree(folder)
            yield "text"

    monkeypatch.setattr(loaded, "documents", texts)
    assert loaded.encode((None, 0, 1000, frozenset(), folder / "0"))[0] == 128


def test_progress_within_a_piece_is_taken_up(source, straight, tmp_path):
    """Another version may cut the pieces elsewhere."""
    whole = {split: ids.tobytes() for split, ids in straight[1].items()}
    ends = 2 * (np.flatnonzero(straight[1]["train"] == GPT2.end)[99] + 1)
    assert not {*np.random.default_rng(2357).permutation(N)[:3]} & {*range(100)}
    (tmp_path / "train.bin.part").write_bytes(whole["train"][:ends] + b"half a document")
    (tmp_path / "val.bin.part").write_bytes(b"")
    state = {"documents": 100, "bytes": [int(ends), 0], "of": [[source.name, source.stat().st_size], N]}
    (tmp_path / "progress.part").write_text(json.dumps(state))
    done = prepare("openwebtext", "--source", source, "--out", tmp_path, "--workers", 1)
    assert "continuing after document 100\n" in done.stdout and same(straight, read(tmp_path))


def test_other_documents_start_over(source, tmp_path):
    for name in ("train.bin.part", "val.bin.part"):
        (tmp_path / name).write_bytes(b"xx" * 1000)
    before = {"of": [["documents.jsonl", 1], N], "documents": 5, "bytes": [2000, 2000]}
    (tmp_path / "progress.part").write_text(json.dumps(before))
    meta, ids = prepared("openwebtext", tmp_path, "--source", source, "--workers", 1, "--max_docs", 10)
    assert meta["documents"] == 10 and sum((tokens == GPT2.end).sum() for tokens in ids.values()) == 10


def test_nanogpt_token_files_are_adopted(straight, tmp_path):
    theirs = write_bins(tmp_path / "nanogpt", straight[1])
    meta, ids = prepared("openwebtext", tmp_path / "out", "--source", theirs)
    assert same(straight, (meta, ids)) and meta["source"] == "local files, nanogpt/train.bin and val.bin"
    assert meta["sha256"]["val"] == hashlib.sha256((theirs / "val.bin").read_bytes()).hexdigest()

    refused(prepare("openwebtext", "--source", theirs, "--out", tmp_path, "--max_docs", 9), "--max_docs", "nanogpt")
    for content, words in (
        (np.array([50257], np.uint16).tobytes(), ("val", "50257")),
        (b"abc", ("val.bin", "3 bytes")),
    ):
        (theirs / "val.bin").write_bytes(content)
        refused(prepare("openwebtext", "--source", theirs, "--out", tmp_path / "out"), *words)
    (theirs / "val.bin").unlink()
    refused(prepare("openwebtext", "--source", theirs, "--out", tmp_path / "out"), "val.bin")
    assert same(straight, read(tmp_path / "out"))


def test_bytes_are_the_text(straight, tmp_path):
    _, whole = straight
    source = tmp_path / "tokens"
    prepared("openwebtext", source, "--source", write_bins(tmp_path / "nanogpt", whole))
    meta, ids = prepared(
        "openwebtext_bytes", tmp_path / "out", "--source", source, "--max_tokens", 1000, "--max_eval_tokens", 50
    )
    assert meta["tokenizer"] == "bytes" and meta["vocab_size"] == 257
    decode = GPT2().decode
    for split, count in (("train", 1000), ("val", 50)):
        text = b"".join(b"<|endoftext|>" if i == 256 else bytes([i]) for i in ids[split])
        assert text.decode() == decode(whole[split][:count].tolist())

    refused(
        prepare("openwebtext_bytes", "--source", source, "--out", tmp_path, "--max_eval_tokens", 0), "--max_eval_tokens"
    )
    refused(prepare("openwebtext_bytes", "--source", source), "name an --out")
    (tmp_path / "meta.json").write_text("{}")
    refused(
        prepare("openwebtext_bytes", "--source", tmp_path, "--out", tmp_path),
        "its meta.json was not written by a prepare.py",
    )
    refused(prepare("openwebtext_bytes", "--source", tmp_path / "none", "--out", tmp_path), "none is not prepared")
    refused(prepare("openwebtext_bytes", "--source", tmp_path / "out", "--out", tmp_path), "other tokens (bytes)")


@needs_shared
def test_real_documents(tmp_path):
    tokens = np.fromfile(SHARED / "openwebtext_sample" / "val.bin", np.uint16)
    ends = np.flatnonzero(tokens == GPT2.end)[:101] + 1
    documents = [tokens[a:b] for a, b in itertools.pairwise(ends)]
    write_jsonl(tmp_path / "a.jsonl", [GPT2().decode(document[:-1].tolist()) for document in documents])
    _, ids = prepared("openwebtext", tmp_path / "out", "--source", tmp_path / "a.jsonl", "--workers", 1)
    chosen = np.random.default_rng(2357).permutation(100)[0]
    assert np.array_equal(ids["val"], documents.pop(chosen)) and np.array_equal(ids["train"], np.concatenate(documents))


def test_unreadable_sources_are_one_line(source, tmp_path):
    whole, out = tmp_path / "whole.parquet", tmp_path / "out"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), whole)
    bad = {
        "cut.parquet": whole.read_bytes()[:-100],
        "damaged.parquet": b"PAR1" + b"\0" * 2000 + whole.read_bytes()[2004:],
        "cut.jsonl": source.read_bytes()[:-20],
        "other.jsonl": b'{"body": "x"}\n' * 5,
        "list.jsonl": b"[1]\n" * 5,
        "null.jsonl": b'{"text": null}\n' * 5,
        "latin.txt": "café\n<|endoftext|>\n".encode("latin-1") * 3,
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            list(documents(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cut.parquet"):
        count_documents(tmp_path / "cut.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"content": TEXTS}), whole)
    with pytest.raises(UserError, match="no column 'text', only content"):
        list(documents(whole))
    for name in ("none", "a.csv"):
        (tmp_path / "a.csv").write_text("text\n")
        with pytest.raises(UserError, match=name):
            document_files(tmp_path / name)
    refused(prepare("openwebtext", "--source", tmp_path / "damaged.parquet", "--out", out, "--workers", 1), "damaged")
    (tmp_path / "one.txt").write_text("no separators\n")
    refused(
        prepare("openwebtext", "--source", tmp_path / "one.txt", "--out", out), "one.txt: 1 documents, too few to split"
    )
    assert not (out / "meta.json").exists()


def test_what_it_needs_is_said_and_too_little_refused(source, tmp_path, monkeypatch):
    done = prepare("openwebtext", "--source", source, "--out", tmp_path / "out", "--workers", 1_000_000)
    refused(done, "memory", "--workers")
    assert "GB of disk" in done.stdout and "GB of memory" in done.stdout
    refused(prepare("openwebtext", "--source", source, "--out", tmp_path / "out", "--max_docs", 1), "--max_docs")
    loaded = module("openwebtext")
    free = loaded.need_disk.__globals__["shutil"].disk_usage(tmp_path)._replace(free=30 * 10**9)
    monkeypatch.setattr(loaded.need_disk.__globals__["shutil"], "disk_usage", lambda path: free)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--out", str(tmp_path / "out"), "--workers", "1"])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="of disk are needed and 30.0 GB are free"):
        loaded.main()


def test_a_partial_export_is_refused_by_its_count(tmp_path, monkeypatch):
    loaded = module("openwebtext")
    monkeypatch.setattr(loaded, "print_requirements", lambda *arguments: None)
    monkeypatch.setattr(loaded, "hub_file", lambda *arguments: (Path(arguments[-1]), "commit"))
    monkeypatch.setattr(loaded, "count_documents", lambda path: 100_000)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="8,000,000 documents, not 8,013,769"):
        loaded.main()
    assert not list(tmp_path.iterdir())
    assert len(loaded.hub_files(250_000)) == 3
