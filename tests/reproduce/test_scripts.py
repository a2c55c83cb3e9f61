"""What is done with a finished run: scripts/plot.py draws it, scripts/sample.py lets its model write.

python -m pytest -q tests/reproduce/test_scripts.py        # a few seconds
"""

import os

import matplotlib.image
import pytest
import tiny
import torch
from prepare_script import SHARED

import checkpoints
import data.tokens


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a finished run."""
    folder, before = tmp_path_factory.mktemp("run"), data.tokens.FOLDER
    data.tokens.FOLDER = tiny.write_data(folder / "data")
    tiny.run(out_dir=str(folder / "out"), max_iters=30, lr_decay_iters=30)
    data.tokens.FOLDER = before
    return folder / "out"


@pytest.mark.parametrize("optimizer", ["mada", "adam"])
def test_plot(script, out, tmp_path, optimizer):
    if optimizer == "mada":
        folder = out
    else:  # no coefficients to draw
        folder = tmp_path
        lines = (out / "metrics.jsonl").read_text().replace('"coefficients"', '"nothing"')
        (folder / "metrics.jsonl").write_text(lines + '{"iter": 31, "train')  # killed while it wrote
    assert script("plot", folder) == (0, f"{folder}/curves.png\n", "")
    height, width = matplotlib.image.imread(folder / "curves.png").shape[:2]
    assert (height > width * 0.9) == (optimizer == "mada")  # two pictures above each other, or one


def test_sample_writes_as_much_as_is_asked(script, out):
    status, text, error = script("sample", out / "ckpt_best.pt", "--prompt", "abc", "--tokens", 40)
    assert (status, error) == (0, "")
    assert len(text) == 3 + 40 + 1 and text.startswith("abc") and set(text) <= set(tiny.CHARS)
    again = script("sample", out / "ckpt_best.pt", "--prompt", "abc", "--tokens", 40)[1]
    other = script("sample", out / "ckpt_best.pt", "--prompt", "abc", "--tokens", 40, "--seed", 1)[1]
    assert text == again != other
    last = "sample", out / "ckpt_last.pt", "--tokens", 20
    greedy = [script(*last, "--temperature", 0, "--seed", seed)[1] for seed in (1, 2)]
    assert greedy[0] == greedy[1] == script(*last, "--top_k", 1)[1]


class Dictator:
    """Stands for a model with GPT-2's tokens, which says "One two" and ends its document, whatever the prompt."""

    def generate(self, tokens, *arguments):
        self.asked, self.prompt = arguments, tokens[0].tolist()
        return torch.cat([tokens, torch.tensor([[3198, 734, 50256, 464]])], dim=1)  # One, two, <|endoftext|>, The


@pytest.mark.parametrize(
    "arguments, prompt, text",
    [
        ([], [50256], "One two\n"),
        (["--prompt", "The"], [464], "TheOne two\n"),
        (["--prompt", "two<|endoftext|>The"], [11545, 50256, 464], "two<|endoftext|>TheOne two\n"),
    ],
)
def test_sample_begins_and_ends_with_gpt2s_end_of_text(script, monkeypatch, arguments, prompt, text):
    if SHARED.is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken_cache"))
    dictator = Dictator()
    monkeypatch.setattr(
        checkpoints, "load", lambda name, device: (dictator, {"tokenizer": "gpt2", "vocab_size": 50257})
    )
    status, written, _ = script("sample", "gpt2-xl", "--tokens", 4, "--temperature", 0.5, "--top_k", 7, *arguments)
    assert (status, written) == (0, text)
    assert dictator.prompt == prompt and dictator.asked == (4, 0.5, 7, 50257)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("plot", ["nowhere"], "nowhere: there is no metrics.jsonl"),
        ("plot", ["OUT/metrics.jsonl"], "name the out_dir of a run"),
        ("plot", ["empty"], "empty: there is no run in its metrics.jsonl"),
        ("sample", ["nowhere/ckpt_best.pt"], "nowhere/ckpt_best.pt: no model can be read from it"),
        ("sample", ["OUT"], "no model can be read from it"),
        ("sample", ["OUT/metrics.jsonl"], "no model can be read from it"),
        ("sample", ["OUT/ckpt_best.pt", "--prompt", "a+b=C"], "does not know the characters '+=C'"),
        ("sample", ["OUT/ckpt_best.pt", "--prompt", ""], "--prompt must have at least one character"),
        ("sample", ["OUT/ckpt_best.pt", "--temperature", "-1"], "--temperature must be at least 0"),
        ("sample", ["OUT/ckpt_best.pt", "--tokens", "0"], "--tokens and --top_k at least 1"),
        ("sample", ["OUT/ckpt_best.pt", "--device", "abacus"], "device='abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_one_line(script, out, tmp_path, monkeypatch, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    open("empty/metrics.jsonl", "w").close()
    status, output, error = script(name, *(argument.replace("OUT", str(out)) for argument in arguments))
    assert (status, output) == (2, "") and error.count("\n") == 1
    assert error.startswith(f"{name}.py: ") and message in error
