"""scripts/evaluate.py: transformers' losses on the same windows; for the strided ones, a loop over tokens; last words.

python -m pytest -q tests/data/test_evaluate.py        # a few seconds
"""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import data.tokens
from model import GPT, GPTConfig
from scripts.evaluate import Evaluation, evaluate, open_data, standard_error
from settings import UserError

META = {"tokenizer": "char", "chars": "abc", "vocab_size": 97}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(data.tokens, "FOLDER", str(tmp_path))
    return tmp_path


def write_split(folder, name, ids, split="val", **meta):
    os.makedirs(folder / name)
    (folder / name / "prepare.py").touch()
    np.asarray(list(ids), np.uint16).tofile(folder / name / f"{split}.bin")
    (folder / name / "meta.json").write_text(
        json.dumps(META | {"source": f"{name} of a test", "dtype": "uint16", "counts": {split: len(ids)}} | meta)
    )


def random_model(block_size=24):
    """transformers' GPT-2 with small random weights, and ours with the same."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97, n_positions=block_size, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
        )
    ).eval()
    return theirs, GPT.from_transformers(theirs).eval()


def random_ids(count):
    return np.random.default_rng(0).integers(0, 97, count)


def test_windows_of_the_paper_have_transformers_losses(folder):
    """The windows are those of the authors' perplexity.py: 200 chunks of 30 tokens, two windows of 24 per start."""
    theirs, ours = random_model()
    ids = random_ids(24 + 6029)
    write_split(folder, "text", ids)
    starts = [k * 30 + j for k in range(200) for j in (0, 24)]
    with torch.no_grad():
        losses = []
        for start in starts:
            window = torch.from_numpy(ids[start : start + 25])[None]
            logits = theirs(window[:, :-1]).logits[0]
            losses.append(F.cross_entropy(logits, window[0, 1:]).item())
    assert np.std(losses) > 0.05
    for batch_size in (8, 64):
        loss, count = Evaluation(ours, batch_size).paper(open_data("text", ours, META))
        assert count == len(starts) and loss == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize("stride, size", [(1, 61), (7, 61), (24, 61), (24, 73), (12, 25), (5, 26)])
def test_strided_losses_are_those_of_a_loop_over_tokens(folder, stride, size):
    _, ours = random_model()
    ids = torch.from_numpy(random_ids(size))
    write_split(folder, "text", ids)
    expected, contexts = [], []
    with torch.no_grad():
        for i in range(1, size):
            window = (
                max(0, math.ceil((i - 24) / stride)) * stride
            )  # the first of the windows 0, stride, ... that reaches i
            window = min(window, size - 1 - 24)  # the last one ends with the split
            expected.append(F.cross_entropy(ours(ids[None, window:i])[0, -1], ids[i]).item())
            contexts.append(i - window)
    assert min(contexts[24:], default=24) >= 24 - stride + 1
    losses = Evaluation(ours, batch_size=3).strided(open_data("text", ours, META), stride)
    np.testing.assert_allclose(losses, expected, atol=1e-5)


class Parrot(torch.nn.Module):
    """Says with certainty that the next token is the present one plus 1, up to 9 and from 0 on again."""

    config = GPTConfig(block_size=8, vocab_size=10)

    def __init__(self):
        super().__init__()
        self.lm_head = torch.nn.Linear(1, 1)

    def forward(self, tokens):
        return 50.0 * F.one_hot((tokens + 1) % 10, 10)


def test_last_words(folder):
    """Each token of the last word must be right, and only they; a long passage keeps its end."""
    passages = [
        ([7, 3, 4], [5, 6]),
        ([4], [5]),
        ([4], [5, 5]),
        ([1, 2], [2, 3]),
        ([3, 4, 5], [6]),
        ([5] * 11, [6, 7, 8]),
        ([8], [9, 0, 1]),
    ]
    right = [True, True, False, False, True, True, True]
    ids, bounds = [], []
    for context, word in passages:
        bounds.append((len(ids), len(ids) + len(context), len(ids) + len(context) + len(word)))
        ids += [*context, *word, 0]
    write_split(folder, "lambada", ids, split="test", vocab_size=10)
    np.save(folder / "lambada" / "passages.npy", bounds)
    parrot = Parrot()
    for batch_size in (1, 3, 100):
        losses, are_right = Evaluation(parrot, batch_size).last_words(
            open_data("lambada", parrot, META), np.array(bounds)
        )
        assert are_right.tolist() == right
        np.testing.assert_allclose(losses, [0, 0, 50, 50, 0, 0, 0], atol=1e-5)
    result = evaluate(Evaluation(parrot), open_data("lambada", parrot, META), 8)["last_word"]
    assert result["passages"] == 7 and result["accuracy"] == pytest.approx(5 / 7)
    assert result["accuracy_se"] == pytest.approx(math.sqrt(5 / 7 * 2 / 7 / 6))
    assert result["loss"] == pytest.approx(100 / 7, abs=1e-5)


def test_last_word_losses_are_those_of_transformers(folder):
    theirs, ours = random_model()
    ids = random_ids(60)
    bounds = np.array([(0, 10, 13), (14, 30, 31), (32, 56, 59)])  # the last is longer than the context of 24
    write_split(folder, "lambada", ids, split="test")
    losses, _ = Evaluation(ours, 2).last_words(open_data("lambada", ours, META), bounds)
    with torch.no_grad():
        for loss, (start, word, end) in zip(losses, bounds):
            row = torch.from_numpy(ids[max(start, end - 24) : end])[None]
            labels = row.where(torch.arange(row.size(1)) >= row.size(1) - (end - word), -100)
            assert loss == pytest.approx(theirs(row, labels=labels).loss.item() * (end - word), abs=1e-4)


def test_standard_errors():
    """Of independent values the usual one; of groups the spread that repeated samples of groups have."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    assert standard_error(values, np.arange(50)) == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    fourfold = standard_error(np.repeat(values, 4), np.repeat(np.arange(50), 4))
    assert fourfold == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    means, errors = [], []
    for _ in range(2000):
        sizes = rng.integers(1, 10, 40)
        groups = np.repeat(np.arange(40), sizes)
        values = (rng.normal(size=40) + 0.1 * sizes)[groups] + rng.normal(size=len(groups))
        means.append(values.mean())
        errors.append(standard_error(values, groups))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.07)


# the script


@pytest.fixture
def checkpoint(folder):
    """A checkpoint of a model with GPT-2's tokens, small data sets of such, and the model."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=16, vocab_size=50304, n_layer=1, n_head=1, n_embd=4, bias=False))
    torch.save(
        {
            "model": model.state_dict(),
            "model_config": dataclasses.asdict(model.config),
            "data": {"tokenizer": "gpt2", "vocab_size": 50257},
        },
        folder / "ckpt.pt",
    )
    ids = np.random.default_rng(0).integers(0, 1000, 200)
    gpt2 = {"tokenizer": "gpt2", "vocab_size": 50257, "chars": None}
    write_split(folder, "wikitext", ids, "test", **gpt2)
    documents = np.where(np.arange(200) % 40 == 39, 50256, ids)
    write_split(folder, "openwebtext", documents, **gpt2)
    for name in ("lambada", "lambada_original"):
        write_split(folder, name, documents, "test", **gpt2)
        np.save(folder / name / "passages.npy", [(0, 35, 39), (40, 77, 79)])
    return str(folder / "ckpt.pt"), model.eval()


def test_the_script_writes_a_table_and_json(script, folder, checkpoint):
    path, model = checkpoint
    status, text, _ = script("evaluate", path, "--out", folder / "out.json", "--device", "cpu", "--batch_size", 64)
    assert status == 0
    result = json.loads((folder / "out.json").read_text())
    assert (result["model"], result["block_size"], result["stride"], result["dtype"]) == (path, 16, 8, "float32")
    names = ["openwebtext", "wikitext", "lambada", "lambada_original"]  # the last comes with lambada
    assert list(result["data"]) == names
    lines = text.splitlines()
    assert lines[1].split() == ["paper", "strided", "last", "word"]
    assert [line.split()[0] for line in lines[3:7]] == names
    for name, line in zip(names, lines[3:7]):
        numbers = result["data"][name]
        assert f"{numbers['paper']['loss']:.4f}" in line and f"{numbers['strided']['perplexity']:.2f}" in line
        assert ("last_word" in numbers) == name.startswith("lambada")
        assert numbers["paper"]["loss"] == pytest.approx(math.log(50304), abs=0.1)
        assert numbers["tokens"] == 200
    assert "s.e. over 5 documents" in text and "wikitext: wikitext of a test, 200 tokens; s.e. over 13 windows" in text
    expected = Evaluation(model).strided(open_data("openwebtext", model, {"tokenizer": "gpt2"}), 8)
    assert result["data"]["openwebtext"]["strided"]["loss"] == pytest.approx(expected.mean(), rel=1e-6)


@pytest.mark.parametrize(
    "remove, arguments, message",
    [
        ("wikitext/test.bin", [], "run: python data/wikitext/prepare.py"),
        (
            "lambada_original/meta.json",
            ["--data", "lambada_original"],
            "run: python data/lambada/prepare.py --variant original",
        ),
        (None, ["--data", "wikitext_lines"], "prepare.py --variant lines --out data/wikitext_lines"),
        (None, ["--data", "wiki"], "there is no data/wiki; there are lambada, "),
        (None, ["--data", "wikitext", "--stride", "17"], "--stride must be 1 to 16"),
        (None, ["--data", "wikitext", "--stride", "0"], "--stride must be 1 to 16"),
        (None, ["--out", "nowhere/out.json"], "--out nowhere/out.json: no file can be written there"),
        (None, ["--out", "."], "--out .: no file can be written there"),
        (None, ["--device", "abacus"], "device='abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_one_line(script, folder, checkpoint, remove, arguments, message):
    if remove:
        (folder / remove).unlink()
    status, text, error = script("evaluate", checkpoint[0], *arguments)
    assert (status, text) == (2, "") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"dtype": "uint16", "counts": {"test": 200}}'])
def test_a_damaged_meta_json_is_one_line(script, folder, checkpoint, text):
    (folder / "wikitext" / "meta.json").write_text(text)
    status, output, error = script("evaluate", checkpoint[0], "--data", "wikitext")
    assert (status, output) == (2, "") and error.count("\n") == 1 and "its meta.json is damaged" in error


def test_a_model_of_bytes(script, folder):
    """Its documents end with 256, its sets of other names hold test splits, and its losses are per byte."""
    torch.manual_seed(0)
    ours = GPT(GPTConfig(block_size=16, vocab_size=257, n_layer=1, n_head=1, n_embd=4, bias=False)).eval()
    meta = {"tokenizer": "bytes", "vocab_size": 257}
    saved = {"model": ours.state_dict(), "model_config": dataclasses.asdict(ours.config), "data": meta}
    torch.save(saved, folder / "ckpt.pt")
    ids = np.where(np.arange(200) % 40 == 39, 256, random_ids(200))
    write_split(folder, "wikitext_bytes", ids, "test", chars=None, **meta)
    status, text, _ = script("evaluate", folder / "ckpt.pt", "--data", "wikitext_bytes", "--out", folder / "out.json")
    assert status == 0 and "windows of 16 bytes" in text and "nats per byte" in text and "over 5 documents" in text
    result = json.loads((folder / "out.json").read_text())
    assert result["unit"] == "byte"
    expected = Evaluation(ours).strided(open_data("wikitext_bytes", ours, meta), 8)
    assert result["data"]["wikitext_bytes"]["strided"]["loss"] == pytest.approx(expected.mean(), rel=1e-6)


def test_a_model_of_other_tokens_is_refused(folder):
    write_split(folder, "text", random_ids(100))
    _, ours = random_model()
    with pytest.raises(UserError, match="text has other tokens"):
        open_data("text", ours, {"tokenizer": "gpt2"})
