"""Settings: what config files and the command line may say, and the one line that answers what they may not.

python -m pytest -q tests/train/test_settings.py        # a quarter of a minute
"""

import inspect
import os
import signal
import subprocess
import sys

import pytest
import tiny
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

import checkpoints
import metrics
import model
import optim
import train
from settings import STOPPED, UserError, checked, declared, main, parse

pytestmark = pytest.mark.usefixtures("folder")

SETTINGS = declared(train.__file__)
CONFIGS = sorted(path for path in (tiny.ROOT / "config").glob("*.py") if path.stem.startswith(("train_", "finetune_")))


def parsed(*arguments):
    return parse(SETTINGS, arguments)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


@pytest.fixture
def refuse(monkeypatch, capsys):
    """A command line of train.py -> the one line on stderr with which it ends."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as end:
            main(train.train, train.__file__)
        output, error = capsys.readouterr()
        assert end.value.code == 2 and output == "" and not os.path.exists("out")
        assert error.startswith("train.py: ") and error.count("\n") == 1 and error.endswith("\n")
        return error

    return run


# what is refused, in one line and with exit status 2


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--learning_rat=1e-3", ["the command line", "'learning_rat'", "'learning_rate'"]),
        ("--betas=(0.9, 0.95)", ["'betas'", "nearest is 'beta"]),
        ("--xyzzy=1", ["'xyzzy'", "nearest is"]),
        ("--max_iters", ["--max_iters: write --max_iters=VALUE"]),
        ("--lr=1e-3", ["'lr'", "nearest is 'learning_rate'"]),
        ("-max_iters=3", ["-max_iters=3: write --max_iters=3"]),
        ("--max_iters=ten", ["max_iters='ten' must be int"]),
        ("--max_iters=1e3", ["max_iters=1000.0 must be int"]),
        ("--n_layer=True", ["n_layer=True must be int"]),
        ("--n_layer=None", ["n_layer=None must be int"]),
        ("--micro_batch_size=2.5", ["micro_batch_size=2.5 must be int or None"]),
        ("--learning_rate=fast", ["learning_rate='fast' must be float"]),
        ("--bias=1", ["bias=1 must be bool"]),
        ("--compile=maybe", ["compile='maybe' must be bool or 'auto'"]),
        ("--dtype=float8", ["dtype='float8' must be 'auto' or 'float32' or 'bfloat16' or 'float16'"]),
        ("--out_dir=None", ["out_dir=None must be str"]),
        ("--hyper_lr=small", ["hyper_lr='small' must be float or dict or None"]),
        ("--learn=3", ["learn=3 must be tuple or None"]),
        ("--learn=('rho', 'rho')", ["learn=('rho', 'rho') must be names, each once"]),
        ("--weight_decay=-0.1", ["weight_decay=-0.1 must be at least 0"]),
        ("--min_lr=1", ["min_lr=1.0 is more than learning_rate=0.0006"]),
        ("--eps=1e999", ["eps=inf must be finite"]),
        ("--learning_rate=1e999", ["learning_rate=inf must be finite"]),
        ("--hyper_momentum=1", ["hyper_momentum=1.0 must lie in [0, 1)"]),
        ("--hyper_momentum={'rho': 1}", ["hyper_momentum={'rho': 1} must map names to numbers in [0, 1)"]),
        ("--hyper_lr={'rho': -1}", ["hyper_lr={'rho': -1} must map names to numbers that are at least 0"]),
        ("--seed=99999999999999999999", ["must be less than 2**32"]),
        (
            "config/train_gpt_mada.py",
            ["config/train_gpt_mada.py: there is no such config file", "config/train_gpt2_mada.py"],
        ),
        ("mada", ["mada: there is no such config file"]),
        ("--dataset=tiny_", ["dataset='tiny_'", "there is no data/tiny_"]),
        ("--optimizer=adma", ["'adma' does not exist", "mada"]),
    ],
)
def test_a_wrong_argument(refuse, argument, words):
    small = (
        "--n_layer=1",
        "--n_embd=12",
        "--batch_size=2",
        "--max_iters=1",
    )  # should it not be wrong, it takes a moment
    line = refuse("--dataset=tiny", "--block_size=16", "--device=cpu", *small, argument)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "text, words",
    [
        ("learning_rat = 1e-3", ["bad.py", "'learning_rat'", "'learning_rate'"]),
        ("batch_size = 12\nn_layer = 'four'", ["bad.py: n_layer='four' must be int"]),
        ("learning_rate = 1e-3 *", ["bad.py: SyntaxError", "line 1"]),
        ("max_iters = 10 * epochs", ["bad.py: NameError", "'epochs'"]),
        ("max_iters = 10 // 0", ["bad.py: ZeroDivisionError"]),
        ("raise ValueError('two\\nlines')", ["bad.py: ValueError: two"]),
        ("from math import pi", ["bad.py", "'pi'"]),
        ("import math as seed", ["bad.py: seed=<module 'math'", "must be int"]),
        ("def beta1(): pass", ["bad.py: beta1=<function beta1", "must be float or None"]),
        ("from os import path as out_dir", ["bad.py: out_dir=<module", "must be str"]),
        ("exec('n_layer = -1')", ["bad.py: n_layer=-1 must be at least 1"]),
        ("exit()", ["bad.py: SystemExit"]),
    ],
)
def test_a_wrong_config_file(refuse, text, words):
    line = refuse(write("bad.py", text))
    assert all(word in line for word in words), line


def test_missing_data_names_the_command_to_run(refuse, folder):
    (folder / "openwebtext").mkdir()
    (folder / "openwebtext" / "prepare.py").touch()
    line = refuse(str(tiny.ROOT / "config" / "train_gpt2_mada.py"))
    assert "dataset='openwebtext'" in line and line.endswith("run: python data/openwebtext/prepare.py\n")
    assert "openwebtext" in refuse("--dataset=opnwebtext")
    os.remove(folder / "tiny" / "val.bin")
    (folder / "tiny" / "prepare.py").touch()
    line = refuse("--dataset=tiny")
    assert "tiny/val.bin is missing" in line and line.endswith("run: python data/tiny/prepare.py\n")


def test_under_torchrun_the_first_rank_prints_and_every_rank_tells_torchrun(refuse, monkeypatch, capsys, tmp_path):
    """Its report, which comes last, has the words of the rank that failed first."""
    said = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / f"error{rank}.json"))
        monkeypatch.setattr(sys, "argv", ["train.py", "--learning_rat=1"])
        with pytest.raises(SystemExit) as end:
            main(train.train, train.__file__)
        said.append(capsys.readouterr().err)
        failure = ProcessFailure(local_rank=rank, pid=1, exitcode=2, error_file=str(tmp_path / f"error{rank}.json"))
        assert end.value.code == 2 and "'learning_rat'" in failure.message["message"]
    assert said[0].count("\n") == 1 and said[1] == ""


# what is taken


@pytest.mark.parametrize(
    "argument, value",
    [
        ("--learning_rate=1", 1.0),
        ("--learning_rate=3e-4", 3e-4),
        ("--beta1=None", None),
        ("--beta1=0", 0.0),
        ("--micro_batch_size=4", 4),
        ("--micro_batch_size=None", None),
        ("--compile=True", True),
        ("--compile=auto", "auto"),
        ("--dtype=bfloat16", "bfloat16"),
        ("--out_dir=out/a-b", "out/a-b"),
        ("--out_dir='5'", "5"),
        ("--max_iters=1_000", 1000),
        ("--learn=()", ()),
        ("--learn=('rho',)", ("rho",)),
        ("--learn=beta1,beta2", ("beta1", "beta2")),
        ("--hyper_lr=1", 1.0),
        ("--hyper_lr={'rho': 0.1}", {"rho": 0.1}),
    ],
)
def test_a_value_from_the_command_line(argument, value):
    settings, given = parsed(argument)
    name = argument[2:].partition("=")[0]
    assert given == {name: value} and settings[name] == value and type(settings[name]) is type(value)
    assert settings | given == settings and settings.keys() == SETTINGS.keys()


def test_a_value_after_a_space_is_told_the_form(refuse):
    assert "--max_iters: write --max_iters=20 (" in refuse("--max_iters", "20")


def test_a_name_may_look_like_a_number():
    settings = declared(train.__file__)
    given = parse(settings, ["--dataset=1984", "--out_dir=1e3", "--wandb_run_name=017"])[1]
    assert given == {"dataset": "1984", "out_dir": "1e3", "wandb_run_name": "017"}
    assert parse(settings, ["--wandb_run_name=None", "--max_iters=7"])[1] == {"wandb_run_name": None, "max_iters": 7}


def test_a_run_that_heeds_no_sigterm_is_to_be_resumed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(lambda *_: os.kill(os.getpid(), signal.SIGTERM), train.__file__)
    assert end.value.code == STOPPED and capsys.readouterr().err == "train.py: stopped\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_files_stack_and_the_command_line_wins():
    one = write("one.py", "import math\n_twice = 2\nn_layer = 3 * _twice\nn_embd = 64\nlearning_rate = 1")
    two = write(
        "two.py", "n_layer = n_layer + 1\nmax_iters = 10\nlr_decay_iters = max_iters\nwarmup_iters = warmup_iters // 2"
    )
    expected = {
        "n_layer": 7,
        "n_embd": 64,
        "max_iters": 10,
        "lr_decay_iters": 10,
        "warmup_iters": 1000,
        "learning_rate": 1.0,
    }
    assert parsed(one, two)[1] == expected
    assert parsed("--max_iters=5", one, two, "--n_embd=32")[1] == expected | {"max_iters": 5, "n_embd": 32}
    assert parsed(two, one)[1]["n_layer"] == 6
    assert parsed("--n_layer=1", "--n_layer=2")[1] == {"n_layer": 2}


def test_whatever_statement_sets_a_setting_sets_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "shared_settings.py", "n_layer = 7\nwidth = 64\n")
    path = write(
        "some.py",
        "from shared_settings import n_layer, width as n_embd\nexec('n_head = 4')\n"
        "for batch_size in (1, 2): pass\nif (seed := 5): pass\nglobals().update(dropout=0.5)\n",
    )
    assert parsed(path)[1] == {"n_layer": 7, "n_embd": 64, "n_head": 4, "batch_size": 2, "seed": 5, "dropout": 0.5}


def test_a_file_that_repeats_a_default_has_given_it():
    assert parsed(write("same.py", "n_layer = 12\ndropout = 0.0\noptimizer = 'mada'\nbeta1 = None"))[1] == {
        "n_layer": 12,
        "dropout": 0.0,
        "optimizer": "mada",
        "beta1": None,
    }


def test_what_files_set_is_known_and_what_the_command_line_sets():
    config = write("one.py", "n_layer = 3\nn_embd = 64")
    given = parsed(config, "--n_embd=32", "--seed=1")[1]
    assert given == {"n_layer": 3, "n_embd": 32, "seed": 1}
    assert given.files == {"n_layer": 3, "n_embd": 64} and given.line == {"n_embd", "seed"}


FOR_MADA = "optimizer = 'mada'\nbeta1 = 0.8\nrho = 0.5\nhyper_lr = 0.1\nhyper_start = 2\nlearn = ('rho',)\n"


def test_what_a_file_sets_for_another_optimizer_is_left_out(capsys):
    config = write("mada.py", FOR_MADA)
    train.train(*parsed(config, *tiny.arguments(optimizer="adam", max_iters=4)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ignored config settings that adam does not have: rho, learn, hyper_lr, hyper_start"
    assert sum("ignored" in line for line in lines) == 1
    kept = metrics.read("out")[0]["config"]
    assert (kept["optimizer"], kept["beta1"], kept["rho"], kept["hyper_lr"], kept["learn"]) == (
        "adam",
        0.8,
        None,
        None,
        None,
    )
    train.train(*parsed(config, *tiny.arguments(optimizer="adam", max_iters=8, init_from="resume")))
    resumed = metrics.read("out")[1][-1]
    train.train(*parsed(*tiny.arguments(optimizer="adam", beta1=0.8, out_dir="plain")))
    assert resumed["iter"] == 8 and resumed["val_loss"] == metrics.read("plain")[1][-1]["val_loss"]


def test_on_the_command_line_it_stays_an_error():
    config = write("mada.py", FOR_MADA)
    with pytest.raises(UserError, match="optimizer 'adam' has no setting 'rho'"):
        train.train(*parsed(config, *tiny.arguments(optimizer="adam", rho=0.5)))
    with pytest.raises(UserError, match="optimizer 'adm' does not exist: choose one of mada"):
        train.train(*parsed(config, *tiny.arguments(optimizer="adm")))
    assert not os.path.exists("out")


@pytest.mark.parametrize("script", ["train_cifar10", "train_small"])
def test_hyperparameters_are_the_same_settings_in_every_script(script):
    theirs = declared(f"{tiny.ROOT}/scripts/{script}.py")
    shared = [name for name, it in theirs.items() if it.section == "hyperparameters"]
    assert len(shared) > 10
    for name in shared:
        assert theirs[name][:3] == SETTINGS[name][:3]  # default, type and reason


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_settings_that_adam_takes(config):
    cfg, left_out = train.drop_foreign_settings(*parsed(str(config), "--optimizer=adam"))
    optim.build("adam", [torch.zeros(1, requires_grad=True)], lr=1.0, **train.section("hyperparameters", cfg))
    assert "beta1" not in left_out and "beta2" not in left_out


def test_help_lists_every_setting_with_its_default_and_reason(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--n_layer=3", "--help")
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, setting in SETTINGS.items():
        at = lines.index(f"  {name} = {setting.default!r}")
        assert lines[at + 1].strip() == setting.reason != ""


def test_the_defaults_have_their_own_types():
    for name, setting in SETTINGS.items():
        assert checked(SETTINGS, name, setting.default, "default") == setting.default == getattr(train, name)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, status", [(["--learning_rat=1"], 2), (["--help"], 0)])
def test_the_real_command(arguments, status):
    result = subprocess.run(
        [sys.executable, tiny.ROOT / "train.py", *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == status and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == (status == 2)


@pytest.mark.slow
def test_help_into_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, tiny.ROOT / "train.py", "--help"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert result.stderr == b""


# the repository's own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_the_repository(path):
    """It parses, its optimizer takes its settings, its sizes make a model, its batch fits 1, 2, 4 and 8 processes."""
    settings = parsed(str(path))[0]
    module = torch.nn.Linear(3, 2)
    module(torch.ones(1, 3)).sum().backward()
    optimizer = optim.build(
        settings["optimizer"],
        [{"params": list(module.parameters())}],
        hidden=[module.weight],
        lr=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["grad_clip"],
        **train.section("hyperparameters", settings),
    )
    before = module.weight.clone()
    optimizer.step()
    assert not torch.equal(before, module.weight)
    with torch.device("meta"):
        sizes = train.section("model", settings) | {"vocab_size": settings["vocab_size"] or 65}
        model.GPT(model.GPTConfig(**sizes))
    if settings["dataset"] == "openwebtext":
        assert all(settings["batch_size"] % (ranks * settings["micro_batch_size"]) == 0 for ranks in (1, 2, 4, 8))
        assert settings["batch_size"] * settings["block_size"] == 491_520
    outs = [parsed(str(other))[0]["out_dir"] for other in CONFIGS]
    assert outs.count(settings["out_dir"]) == 1  # each run has a folder of its own


def test_every_setting_is_read():
    source = inspect.getsource(train).split("# -- end of settings")[1] + inspect.getsource(checkpoints.start)
    named = {name for name, setting in SETTINGS.items() if setting.section in ("model", "hyperparameters")}
    assert [
        name for name in SETTINGS if not (name in named or f"cfg.{name}" in source or f'cfg["{name}"]' in source)
    ] == []


def test_names_to_learn_that_another_optimizer_has_not_are_left_out():
    settings = parsed(write("muon.py", "mu = 1.0\nlearn = ('beta1', 'mu')\n"), "--optimizer=hyperadam")
    assert train.drop_foreign_settings(*settings)[1] == ["mu", "learn"]


def test_rates_of_coefficients_that_another_optimizer_has_not_are_left_out():
    config = write("rates.py", "hyper_lr = {'beta1': 0.1, 'rho': 0.2}\ndomain = {'beta1': (0.5, 0.9)}\n")
    assert train.drop_foreign_settings(*parsed(config, "--optimizer=hyperadam"))[1] == ["hyper_lr"]
    assert train.drop_foreign_settings(*parsed(config, "--optimizer=mada"))[1] == []


def test_auto_starts_as_the_config_file_says():
    for text, mode in (("init_from = 'gpt2-xl'\n", "gpt2-xl"), ("init_from = 'auto'\n", "scratch"), ("", "scratch")):
        cfg, given = parsed(write("tune.py", text + "out_dir = 'out/none'\n"), "--init_from=auto")
        assert checkpoints.start(cfg, given, SETTINGS) == (None, cfg | {"init_from": mode})
