"""train.py does what it promises: runs that resume, share their work or are killed compute what one straight run does.

python -m pytest -q tests/train/test_train.py        # half a minute on 2 cores
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

import data.tokens
import devices
import metrics
import optim
import pretrained
import train
from devices import hardware
from settings import STOPPED, UserError, declared, parse

pytestmark = pytest.mark.usefixtures("folder")

TIMES = ("step_ms", "tokens_per_s")


def state(out_dir, name="ckpt_last.pt"):
    """What a run's checkpoint holds of the training itself."""
    checkpoint = torch.load(f"{out_dir}/{name}", weights_only=True)
    return {key: checkpoint[key] for key in ("model", "optimizer", "scaler", "iter", "best_val_loss")}


def records(out_dir):
    """A run's records without what a clock says."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in metrics.read(out_dir)[1]]


def losses(out_dir, key="train_loss"):
    return [record[key] for record in metrics.read(out_dir)[1] if key in record]


def start(*command, **environment):
    """A process of its own."""
    return subprocess.Popen(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


# resuming


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": name} for name in optim.OPTIMIZERS]
    + [
        {"optimizer": "mada", "dropout": 0.2},
        {"optimizer": "mada", "hyper_momentum": 0.5, "hyper_start": 3, "micro_batch_size": 2},
        {"optimizer": "adam", "dtype": "bfloat16"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_resume_equals_the_straight_run(settings):
    tiny.run(out_dir="straight", **settings)
    tiny.run(out_dir="parts", max_iters=4, **settings)
    tiny.run(out_dir="parts", init_from="resume", **settings)
    assert tiny.same(state("straight"), state("parts"))
    assert records("straight") == records("parts")
    assert losses("straight")[-1] < losses("straight")[0] - 0.01  # and it learns


def test_a_resumed_run_keeps_its_settings(capsys):
    tiny.run(out_dir="run", max_iters=4, weight_decay=0.3)
    first = metrics.read("run")[0]["config"]
    train.train(*parse(declared(train.__file__), ["--init_from=resume", "--out_dir=run", "--max_iters=6"]))
    header, lines = metrics.read("run")
    assert header["resumed_at"] == [4] and lines[-1]["iter"] == 6
    assert "resuming after step 4 of 6, from run/ckpt_last.pt, with max_iters=6\n" in capsys.readouterr().out
    assert header["config"] == first | {"init_from": "resume", "max_iters": 6}
    with pytest.raises(UserError, match="optimizer='lion'.*keeps its optimizer='mada'"):
        tiny.run(out_dir="run", init_from="resume", max_iters=8, optimizer="lion", weight_decay=0.3)
    with pytest.raises(UserError, match="has all its 6 steps.*--max_iters"):
        tiny.run(out_dir="run", init_from="resume", max_iters=6, weight_decay=0.3)
    with pytest.raises(UserError, match="there is no .*ckpt_last.pt"):
        tiny.run(out_dir="elsewhere", init_from="resume")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, status", [("SIGTERM", STOPPED), ("SIGHUP", STOPPED), ("SIGUSR1", STOPPED), ("SIGKILL", -signal.SIGKILL)]
)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(folder, name, status):
    settings = {"out_dir": "stopped", "max_iters": 100_000, "eval_interval": 10, "dropout": 0.1, "lr_decay_iters": 50}
    process = start(sys.executable, tiny.__file__, folder, *tiny.arguments(**settings))
    while process.poll() is None and not (os.path.exists("stopped/metrics.jsonl") and len(records("stopped")) > 15):
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status and "Traceback" not in output, output
    step = state("stopped")["iter"]
    if status == STOPPED:
        assert f"stopped after step {step}; resume with --init_from=auto" in output
    else:
        assert step >= 10 and step % 10 == 0
    settings["max_iters"] = step + 7
    tiny.run(**settings, init_from="resume")
    tiny.run(**settings | {"out_dir": "straight"})
    assert tiny.same(state("straight"), state("stopped"))
    assert losses("straight") == losses("stopped")


# sharing the work


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_micro_batch_is_no_part_of_the_mathematics(micro):
    tiny.run(out_dir="whole")
    tiny.run(out_dir="parts", micro_batch_size=micro)
    for key in ("train_loss", "val_loss", "grad_norm"):
        assert losses("parts", key) == pytest.approx(losses("whole", key), rel=1e-4)


def test_checkpointed_activations_change_nothing():
    tiny.run(out_dir="kept", dropout=0.2)
    tiny.run(out_dir="again", dropout=0.2, checkpoint_activations=True)
    assert tiny.same(state("kept"), state("again"))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(folder):
    settings = {"out_dir": "two", "micro_batch_size": 2, "grad_clip": 0.5}
    torchrun = start(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tiny.__file__,
        folder,
        *tiny.arguments(**settings),
    )
    output = torchrun.communicate(timeout=120)[0]
    assert torchrun.returncode == 0, output
    tiny.run(**settings | {"out_dir": "one"})
    for key in ("train_loss", "val_loss", "grad_norm"):
        assert losses("two", key) == pytest.approx(losses("one", key), rel=1e-4)
    assert [list(values.values()) for values in losses("two", "coefficients")] == [
        pytest.approx(list(values.values()), abs=1e-4) for values in losses("one", "coefficients")
    ]
    header = metrics.read("two")[0]
    assert (header["ranks"], header["accumulation"]) == (2, 2)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert tiny.same(first, second)  # parameters, moments and coefficients
    assert first[1]["param_groups"][0]["coefficients"].tolist() == list(losses("two", "coefficients")[-1].values())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["mada", "adam"])
def test_a_sharded_model_computes_what_a_whole_one_does(folder, optimizer):
    """FSDP2 over two processes, 5 steps; then one process resumes its checkpoint, as if it had always been alone."""
    settings = {"out_dir": "shards", "optimizer": optimizer, "micro_batch_size": 2, "grad_clip": 0.5, "n_layer": 2}
    torchrun = start(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tiny.__file__,
        folder,
        *tiny.arguments(**settings, shard=True, max_iters=5),
    )
    output = torchrun.communicate(timeout=120)[0]
    assert torchrun.returncode == 0, output
    assert not any("DTensor" in str(type(x)) for x in state("shards")["model"].values())
    tiny.run(**settings | {"init_from": "resume", "shard": False, "max_iters": 8})
    tiny.run(**settings | {"out_dir": "one"})
    for key in ("train_loss", "grad_norm"):
        assert losses("shards", key) == pytest.approx(losses("one", key), rel=1e-4)
    assert losses("shards", "val_loss")[-1] == pytest.approx(losses("one", "val_loss")[-1], rel=1e-4)


def test_sharding_needs_several_processes():
    with pytest.raises(UserError, match="start them with torchrun"):
        tiny.run(shard=True)


@pytest.mark.slow
def test_two_processes_that_are_stopped_agree_on_the_step(folder):
    settings = {"out_dir": "stopped", "max_iters": 100_000, "eval_interval": 1000, "log_interval": 3}
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    ranks = [
        start(
            sys.executable,
            tiny.__file__,
            folder,
            *tiny.arguments(**settings),
            WORLD_SIZE="2",
            RANK=str(rank),
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
        )
        for rank in (0, 1)
    ]
    while all(rank.poll() is None for rank in ranks) and not (
        os.path.exists("stopped/metrics.jsonl") and len(records("stopped")) > 5
    ):
        time.sleep(0.02)
    ranks[1].send_signal(signal.SIGINT)  # one is enough
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [STOPPED, STOPPED], outputs
    assert state("stopped")["iter"] == records("stopped")[-1]["iter"]
    assert tiny.same(*(torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)))


# the data


@pytest.fixture
def read(monkeypatch):
    """The windows that a run reads from the training split: one list of starts per step."""
    starts, windows = [], data.tokens.Tokens.windows
    monkeypatch.setattr(
        data.tokens.Tokens,
        "windows",
        lambda self, at: (self.path.endswith("train.bin") and starts.append(at.tolist()), windows(self, at))[1],
    )
    return starts


def test_the_batch_is_a_function_of_seed_and_step(read):
    def steps(**settings):
        read.clear()
        tiny.run(overwrite=True, **settings)
        return read[: settings.get("max_iters", 8)]  # prefetching reads one more

    straight = steps()
    assert len({tuple(batch) for batch in straight}) == 8 and all(len(batch) == 8 for batch in straight)
    assert steps(micro_batch_size=2) == straight
    assert steps(eval_interval=1, eval_iters=1) == straight
    assert steps(optimizer="sgd", n_layer=2) == straight
    assert steps(seed=1) != straight
    assert steps(max_iters=3) + steps(init_from="resume", max_iters=8)[:5] == straight


def test_evaluation_does_not_disturb_training():
    tiny.run(out_dir="often", eval_interval=1, eval_iters=0, dropout=0.2)
    tiny.run(out_dir="once", eval_interval=8, dropout=0.2)
    tiny.run(out_dir="without")
    assert losses("often") == losses("once")
    assert not set(losses("often")) & set(losses("without"))  # dropout is on again after an evaluation
    assert len(losses("often", "val_loss")) == 9 and len(losses("once", "val_loss")) == 2


def test_memory_does_not_grow_with_the_data_that_is_read(folder):
    size = 40_000_000
    os.truncate(folder / "tiny" / "train.bin", 2 * size)
    meta = folder / "tiny" / "meta.json"
    meta.write_text(meta.read_text().replace('"train": 4000', f'"train": {size}'))
    tokens = data.tokens.Tokens("tiny", "train", 256)

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    tokens.windows(tokens.random_starts(0, 0, 64))
    before = resident()
    for step in range(100):
        tokens.windows(tokens.random_starts(0, step, 64))
    assert resident() - before < size / 4


def test_a_token_beyond_the_vocabulary_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(data.tokens, "FOLDER", tiny.write_data(folder / "short", vocab_size=20))
    with pytest.raises(UserError, match="(train|val).bin holds token 26, beyond the 20 of its meta.json"):
        tiny.run()


# what it leaves behind


def test_metrics():
    tiny.run(log_interval=2)
    header, lines = metrics.read("out")
    assert {"config", "git", "seed", "torch", "device"} <= header.keys()
    assert header["config"] == parse(declared(train.__file__), tiny.arguments(log_interval=2))[0]
    assert (header["seed"], header["torch"], header["device"]) == (1337, torch.__version__, hardware("cpu"))
    assert [line["iter"] for line in lines] == [0, 1, 2, 4, 6, 8]
    assert [line["iter"] for line in lines if "val_loss" in line] == [0, 4, 8]
    for line in lines[1:]:
        assert {"train_loss", "lr", "grad_norm"} <= line.keys()
        for name in ("coefficients", "hyper_gradients"):
            assert list(line[name]) == ["beta1", "beta2", "beta3", "rho", "c", "gamma"]
        assert line["lr"] == pytest.approx(train.learning_rate_at(line["iter"], SimpleNamespace(**header["config"])))
    for line in lines[2:]:  # the first step is not timed
        assert line["tokens_per_s"] == pytest.approx(8 * 16 / line["step_ms"] * 1e3) and line["step_ms"] > 0
    assert any(lines[-1]["hyper_gradients"].values()) and lines[-1]["coefficients"] != lines[1]["coefficients"]
    tiny.run(out_dir="adam", optimizer="adam", max_iters=1)
    assert "coefficients" not in records("adam")[-1]


def test_checkpoints_are_plain():
    tiny.run(max_iters=1, compile=False)
    for name in ("ckpt_last.pt", "ckpt_best.pt"):
        checkpoint = torch.load(f"out/{name}", weights_only=True)
        assert not any("module." in key or "_orig_mod." in key for key in checkpoint["model"])
        assert checkpoint["config"]["dataset"] == "tiny" and checkpoint["data"]["chars"] == tiny.CHARS
    assert sorted(os.listdir("out")) == ["ckpt_best.pt", "ckpt_last.pt", "metrics.jsonl"]


def test_the_best_checkpoint_is_the_best():
    settings = {"eval_interval": 1, "optimizer": "sgd"}
    tiny.run(learning_rate=3e-2, min_lr=3e-2, **settings)
    tiny.run(learning_rate=10.0, min_lr=10.0, max_iters=11, init_from="resume", **settings)
    by_step = {line["iter"]: line["val_loss"] for line in records("out") if line["iter"]}
    best = state("out", "ckpt_best.pt")
    assert best["best_val_loss"] == by_step[best["iter"]] == min(by_step.values()) < by_step[11]
    assert state("out")["iter"] == 11 and state("out")["best_val_loss"] == best["best_val_loss"]


def test_another_run_is_not_overwritten_by_accident():
    tiny.run(max_iters=2)
    before = Path("out/metrics.jsonl").read_text()
    with pytest.raises(UserError, match="'out' holds another run.*--init_from=resume.*--overwrite=True"):
        tiny.run(max_iters=3)
    assert Path("out/metrics.jsonl").read_text() == before
    tiny.run(max_iters=3, overwrite=True)
    assert state("out")["iter"] == 3


@pytest.mark.parametrize("optimizer", ["mada", "adam", "sgd"])
def test_divergence_ends_the_run_and_leaves_the_last_good_checkpoint(optimizer):
    tiny.run(max_iters=4, optimizer=optimizer)
    before = state("out")
    with pytest.raises(UserError, match="not finite at step .* last good checkpoint is in out, of step 4"):
        tiny.run(init_from="resume", learning_rate=1e30, max_iters=100, optimizer=optimizer)
    assert tiny.same(state("out"), before)


@pytest.mark.parametrize(
    "max_iters, where",
    [(2, "the loss is not finite at step 2;"), (100, "gradient, for 30 steps in a row, is .* at step 3[0-9];")],
)
def test_divergence_is_an_error_even_at_the_last_step(max_iters, where):
    with pytest.raises(UserError, match=where):
        tiny.run(learning_rate=1e30, max_iters=max_iters, eval_interval=100)


def test_a_stopped_run_that_has_diverged_keeps_the_last_good_checkpoint(monkeypatch):
    tiny.run(max_iters=4)
    before = state("out")
    monkeypatch.setattr(
        train, "learning_rate_at", lambda it, cfg: it == 7 and signal.raise_signal(signal.SIGTERM) or 1e30
    )
    tiny.run(init_from="resume", max_iters=20, log_interval=20, eval_interval=20)
    assert tiny.same(state("out"), before)


def test_a_checkpoint_alone_is_enough_to_resume():
    tiny.run(max_iters=4)
    os.remove("out/metrics.jsonl")
    tiny.run(init_from="resume")
    assert [line["iter"] for line in records("out")] == [5, 6, 7, 8]


def test_pretrained_weights_from_a_folder():
    transformers = pytest.importorskip("transformers")
    sizes = transformers.GPT2Config(vocab_size=30, n_positions=32, n_embd=8, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(sizes).save_pretrained("pretrained")
    with pytest.raises(UserError, match="n_layer=1: the weights of ./pretrained have n_layer=2; leave it out"):
        tiny.run(init_from="./pretrained")
    tiny.run(init_from="./pretrained", max_iters=1, n_layer=2, n_embd=8)
    assert torch.load("out/ckpt_last.pt", weights_only=True)["model_config"] == {
        "block_size": 32,
        "vocab_size": 30,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 8,
        "dropout": 0.0,
        "bias": True,
    }
    train.train(*parse(declared(train.__file__), ["--init_from=resume", "--max_iters=2"]))
    with pytest.raises(UserError, match="block_size=64 is more than ./pretrained's 32"):
        tiny.run(init_from="./pretrained", out_dir="other", block_size=64, n_layer=2, n_embd=8)
    with open("pretrained/meta.json", "w") as file:  # as scripts/export.py writes it
        json.dump({"tokenizer": "char", "chars": "other letters"}, file)
    with pytest.raises(UserError, match="dataset='tiny' has other tokens .char. than the model knows .char."):
        tiny.run(init_from="./pretrained", out_dir="other", n_layer=2, n_embd=8)


def test_a_run_in_a_thread_is_one_in_the_main_thread():
    """Only the main thread may set what signals do."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(tiny.run, max_iters=2).result() == tiny.run(max_iters=2, out_dir="other")


def test_overwriting_leaves_nothing_of_the_other_run():
    tiny.run(max_iters=4)
    with pytest.raises(UserError, match="last good checkpoint is none"):
        tiny.run(overwrite=True, learning_rate=1e30, max_iters=20)
    assert os.listdir("out") == ["metrics.jsonl"]


@pytest.mark.parametrize("eval_iters", [0, 3])
def test_the_validation_loss_is_the_mean_over_its_windows(folder, eval_iters):
    """By hand, with a batch that does not divide the windows: the mean of the losses of all their tokens."""
    tiny.run(eval_iters=eval_iters, eval_train=True, batch_size=5, max_iters=4)
    net, _ = pretrained.load("out/ckpt_last.pt", "cpu")
    found, count = records("out")[-1], eval_iters * 5 or 999 // 16  # 1,000 tokens, 16 in a window, one more to predict
    for split, key in (("val", "val_loss"), ("train", "eval_train_loss")):
        ids = np.fromfile(folder / "tiny" / f"{split}.bin", np.uint16).astype(np.int64)
        starts = [i * ((len(ids) - 1) // 16) // count * 16 for i in range(count)]
        x, y = (torch.tensor(np.stack([ids[start + k : start + k + 16] for start in starts])) for k in (0, 1))
        with torch.no_grad():
            logits = net(x)
        expected = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        assert found[key] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {}, {"mu": 1.0, "learn": ("beta1", "mu")}], ids=str)
def test_weight_decay_is_for_matrices_alone(settings):
    cfg = SimpleNamespace(**parse(declared(train.__file__), tiny.arguments(weight_decay=0.3, **settings))[0])
    model = train.make_model(cfg, None, 27)
    groups = train.make_optimizer(cfg, model).param_groups
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert {p.dim() for p in model.parameters()} == {1, 2}
    assert all(decays[p] == (0.3 if p.dim() > 1 else 0.0) for p in model.parameters())


def test_an_error_on_one_rank_does_not_wait_for_the_others(monkeypatch):
    """NCCL's end of an exchange is an exchange itself; gloo's is not."""
    ended = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append(backend))
    for backend in ("nccl", "gloo"):
        monkeypatch.setattr(torch.distributed, "get_backend", lambda name=backend: name)
        for error in (None, UserError):
            with contextlib.suppress(UserError), contextlib.ExitStack() as at_end:
                at_end.push(devices.Processes("cpu").leave)
                if error:
                    raise error("on one rank")
    assert ended == ["nccl", "gloo", "gloo"]


def test_float16_survives_a_first_step_that_overflows(monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *args, **kwargs: scaler(*args, init_scale=2.0**24, **kwargs))
    tiny.run(dtype="float16", max_iters=30, lr_decay_iters=30)
    assert losses("out")[-1] < losses("out")[0] - 0.1 and records("out")[-1]["skipped_steps"] > 0


def test_the_learning_rate_is_that_of_appendix_c2():
    cfg = SimpleNamespace(learning_rate=6e-4, min_lr=1.5e-5, warmup_iters=2000, lr_decay_iters=None, max_iters=100_000)
    for step, expected in {1: 3e-7, 1000: 3e-4, 2000: 6e-4, 51_000: (6e-4 + 1.5e-5) / 2, 100_000: 1.5e-5}.items():
        assert train.learning_rate_at(step, cfg) == pytest.approx(expected)
    rates = [train.learning_rate_at(step, cfg) for step in range(2000, 100_001, 1000)]
    assert rates == sorted(rates, reverse=True)
    cfg.lr_decay_iters = 50_000
    assert train.learning_rate_at(50_000, cfg) == pytest.approx(1.5e-5) == train.learning_rate_at(80_000, cfg)
