"""What can be done with a finished run: scripts/plot.py draws it, scripts/sample.py lets its model write.

python -m pytest -q tests/reproduce/test_scripts.py        # a few seconds
"""

import json
import os
import time

import matplotlib.image
import pytest
import tiny
import torch

import data.tokens
import metrics
import pretrained
from reproduce import curves, drawing, store
from reproduce.pool import load

plot = load(str(tiny.ROOT / "scripts" / "plot.py"))


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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, which are not written."""
    drawn = []
    monkeypatch.setattr(curves, "save", lambda fig, path: drawn.append(fig))
    return drawn


def copies(out, folder, **runs):
    """A run under other names, each of another optimizer -> their folders."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    for name, optimizer in runs.items():
        header, *records = map(json.loads, lines)
        header["config"]["optimizer"] = optimizer
        if optimizer == "adam":
            records = [{key: x for key, x in record.items() if key != "coefficients"} for record in records]
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [header, *records]))
    return [folder / name for name in runs]


def test_several_runs_are_one_picture(script, out, tmp_path, figures):
    folders = copies(out, tmp_path, a="adam", b="mada", c="hyperadam", d="mada")
    assert script("plot", *folders) == (0, f"{tmp_path}/curves.png\n", "")
    losses, *others = figures[0].axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["a", "b", "c", "d"]
    colors, lines = zip(*((line.get_color(), line.get_linestyle()) for line in losses.get_lines()[::2]), strict=True)
    assert colors == tuple(map(drawing.color, ("adam", "mada", "hyperadam", "mada"))) and len(set(colors)) == 3
    assert lines[1] != lines[3] and lines[0] == lines[1] == lines[2]
    records = metrics.read(str(out))[1]
    val = [(record["iter"], record["val_loss"]) for record in records if "val_loss" in record]
    assert [tuple(map(float, point)) for point in losses.get_lines()[1].get_xydata()] == val
    beta1 = [record["coefficients"]["beta1"] for record in records if "coefficients" in record]
    assert [ax.get_title() for ax in others] == list(drawing.SYMBOLS.values())
    assert all(len(ax.get_lines()) == 3 for ax in others) and others[0].get_lines()[2].get_ydata().tolist() == beta1
    assert losses.get_ylabel() == "loss (nats per character)" and "4 runs on tiny" in losses.get_title()

    assert script("plot", *folders[:2], "--out", "two.png")[:2] == (0, "two.png\n")  # one of which learns coefficients
    assert [ax.get_ylabel() for ax in figures[1].axes][1] == "coefficient of b" and len(figures[1].axes) == 2
    script("plot", folders[0])
    assert len(figures[2].axes) == 1


def test_live_runs_are_drawn_until_they_end(script, out, tmp_path, figures, monkeypatch):
    first, second = copies(out, tmp_path, a="mada", b="adam")
    lines = (second / "metrics.jsonl").read_text().splitlines(keepends=True)
    (second / "metrics.jsonl").unlink()
    to_come = [lines[:1], lines[:9], lines[:9], lines, lines]

    def sleep(seconds):
        assert seconds == 0.5
        (second / "metrics.jsonl").write_text("".join(to_come.pop(0)))

    monkeypatch.setattr(time, "sleep", sleep)
    status, text, _ = script("plot", first, second, "--follow", "0.5")
    assert status == 0 and text.splitlines()[-1] == f"{tmp_path}/curves.png" and to_come == [lines]
    points = [[len(line.get_xdata()) for line in fig.axes[0].get_lines()[2:3]] for fig in figures]
    assert points == [[], [0], [7], [30]]  # train losses of the second run; step 0 has none

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    (second / "metrics.jsonl").write_text("".join(lines[:9]))
    assert script("plot", first, second, "--follow")[0] == 0 and len(figures) == 5


@pytest.mark.parametrize(
    "header, last, ended",
    [
        ({"total": 30, "config": {}}, {"iter": 30}, True),  # of another script than train.py
        ({"total": 30, "config": {}}, {"iter": 29, "train_loss": 1.0}, False),
        ({"config": {"max_iters": 30}}, {"iter": 30}, True),  # older
        ({"total": 30, "config": {}}, {"iter": 7, "train_loss": float("nan")}, True),
        ({"total": 30, "config": {}}, {"iter": 7, "train_loss": 1.0, "val_loss": float("inf")}, True),
        ({"total": 30, "config": {}}, None, False),
    ],
)
def test_when_a_run_is_at_its_end(header, last, ended):
    assert plot.at_end((header, [last] if last else [])) == ended


def test_sample_writes_as_much_as_is_asked(script, out):
    status, text, error = script("sample", out / "ckpt_best.pt", "--prompt", "abc", "--tokens", 40)
    assert (status, error) == (0, "")
    assert len(text) == 3 + 40 + 1 and text.startswith("abc") and set(text) <= set(tiny.CHARS)
    again = script("sample", out, "--prompt", "abc", "--tokens", 40)[1]  # the folder's best
    other = script("sample", out / "ckpt_best.pt", "--prompt", "abc", "--tokens", 40, "--seed", 1)[1]
    assert text == again != other
    last = "sample", out / "ckpt_last.pt", "--tokens", 20
    greedy = [script(*last, "--temperature", 0, "--seed", seed)[1] for seed in (1, 2)]
    assert greedy[0] == greedy[1] == script(*last, "--top_k", 1)[1]


class Dictator:
    """Stands in for a model with GPT-2's tokens: says "One two" and ends its document, whatever the prompt."""

    lm_head = torch.nn.Linear(1, 1)

    def generate(self, tokens, *arguments):
        self.asked, self.prompt = arguments, tokens[0].tolist()
        return torch.cat([tokens, torch.tensor([[3198, 734, 50256, 464]])], dim=1)  # One, two, <|endoftext|>, The


def test_the_benchmark_measures_what_it_is_asked_for(script, tmp_path):
    status, printed, error = script(
        "bench_optim", "--shapes", 1000, "--device", "cpu", "--rounds", 1, "--only", "mada;lion", "--out", tmp_path
    )
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert (status, error) == (0, "") and [row["name"] for row in rows] == ["adamw", "mada", "lion"]
    assert all(row["ms"] > 0 and row["floor_ms"] > 0 and f"\n{row['name']} " in printed for row in rows)
    assert [row["state_bytes_per_parameter"] for row in rows] == pytest.approx([8, 28, 4], rel=1e-2)
    assert (tmp_path / "bench.png").exists()
    status, _, error = script("bench_optim", "--device", "cpu", "--out", tmp_path / "bench.json")
    assert status == 2 and error.count("\n") == 1 and "bench.json" in error


@pytest.mark.parametrize(
    "arguments, prompt, text",
    [
        ([], [50256], "One two\n"),
        (["--prompt", "The"], [464], "TheOne two\n"),
        (["--prompt", "two<|endoftext|>The"], [11545, 50256, 464], "two<|endoftext|>TheOne two\n"),
    ],
)
def test_sample_begins_and_ends_with_gpt2s_end_of_text(script, monkeypatch, arguments, prompt, text):
    dictator, meta = Dictator(), {"tokenizer": "gpt2", "vocab_size": 50257}
    monkeypatch.setattr(pretrained, "load", lambda name, device: (dictator, meta))
    status, written, _ = script("sample", "gpt2-xl", "--tokens", 4, "--temperature", 0.5, "--top_k", 7, *arguments)
    assert (status, written) == (0, text)
    assert dictator.prompt == prompt and dictator.asked == (4, 0.5, 7, 50257)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("plot", ["nowhere"], "nowhere: there is no metrics.jsonl"),
        ("plot", ["OUT/metrics.jsonl"], "name the out_dir of a run"),
        ("plot", ["OUT", "nowhere"], "nowhere: there is no metrics.jsonl"),
        ("plot", ["OUT", "--out", "nowhere/a.png"], "nowhere/a.png: cannot be written: No such file"),
        ("plot", ["OUT", "--follow", "0"], "--follow 0: the seconds between two pictures"),
        ("plot", ["empty"], "empty/metrics.jsonl is empty: the run in empty has logged nothing"),
        ("sample", ["nowhere/ckpt_best.pt"], "nowhere/ckpt_best.pt: no model can be read from it"),
        ("sample", ["empty"], "no model can be read from it"),
        ("evaluate", ["OUT"], "--data: name a data set of char tokens, as"),
        ("sample", ["OUT/metrics.jsonl"], "no model can be read from it"),
        ("sample", ["OUT/ckpt_best.pt", "--prompt", "a+b=C"], "does not know the characters '+=C'"),
        ("sample", ["OUT/ckpt_best.pt", "--prompt", ""], "--prompt must have at least one character"),
        *(
            ("sample", ["OUT/ckpt_best.pt", "--temperature", it], f"--temperature {it}: must be 0, or lie from 0.001")
            for it in ("-1", "nan", "inf", "1e-39")
        ),
        ("sample", ["OUT/ckpt_best.pt", "--tokens", "0"], "--tokens and --top_k must be at least 1"),
        ("sample", ["OUT/ckpt_best.pt", "--seed", "99999999999999999999"], "must lie from 0 to 2**63 - 1"),
        ("plot", ["summary"], "summary.json is not a summary of scripts/reproduce.py"),
        ("bench_optim", ["--rounds", "0"], "--rounds 0: must be at least 1"),
        *((name, ["--only", "("], "--only (: not a regular expression: ") for name in ("gpu_report", "kernels")),
        ("plot", ["copy"], "copy: fig1 at scale cpu is drawn in "),
        ("plot", ["results/fig0/cpu"], "fig0: must be one of table2, "),
        ("plot", ["summary", "--out", "a.png"], "summary: a folder of results/ is drawn in its place"),
        ("sample", ["OUT/ckpt_best.pt", "--device", "abacus"], "device='abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_one_line(script, out, tmp_path, monkeypatch, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    os.mkdir("summary")
    (tmp_path / "summary" / "summary.json").write_text("{}")
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    for folder, it in (("copy", "fig1"), ("results/fig0/cpu", "fig0")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "summary.json").write_text(json.dumps({"name": it, "scale": "cpu"}))
    open("empty/metrics.jsonl", "w").close()
    status, output, error = script(name, *(argument.replace("OUT", str(out)) for argument in arguments))
    assert (status, output) == (2, "") and error.count("\n") == 1
    assert error.startswith(f"{name}.py: ") and message in error
