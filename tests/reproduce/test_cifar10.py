"""scripts/train_cifar10.py: the models of Table 5, its schedule, and runs that resume where they stopped.

python -m pytest -q tests/reproduce/test_cifar10.py        # a few seconds
"""

import json
import math

import numpy as np
import pytest
import tiny
import torch

import checkpoints
import metrics
from reproduce.pool import load
from settings import Diverged, UserError, declared, parse

cifar = load(str(tiny.ROOT / "scripts" / "train_cifar10.py"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Images of one brightness per class, as data/cifar10/prepare.py would leave them."""
    tmp_path = tmp_path / "cifar10"
    tmp_path.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 32)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        np.save(tmp_path / f"{split}_labels.npy", labels)
        images = 25 * labels[:, None, None, None] + rng.integers(0, 25, (count, 32, 32, 3))
        np.save(tmp_path / f"{split}_images.npy", images.astype(np.uint8))
    (tmp_path / "meta.json").write_text(json.dumps({"source": "test"}))
    monkeypatch.setattr(cifar, "FOLDER", tmp_path.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*files, **settings):
    settings = {"batch_size": 24, "epochs": 2, "device": "cpu"} | settings
    arguments = [str(tiny.ROOT / "config" / file) for file in files]
    arguments += [f"--{name}={value!r}" for name, value in settings.items()]
    return cifar.train(*parse(declared(cifar.__file__), arguments))


def test_models_are_those_of_the_paper():
    shapes = [tuple(p.shape) for p in cifar.cnn().parameters() if p.dim() > 1]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    net = cifar.resnet9()
    assert sum(p.dim() > 1 for p in net.parameters()) == 9
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_one_cycle_is_torch_s():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=50)
    cfg = cifar.SimpleNamespace(learning_rate=1e-2, schedule="one_cycle")
    for it in range(1, 51):
        assert math.isclose(cifar.learning_rate_at(it, 50, cfg), optimizer.param_groups[0]["lr"], rel_tol=1e-12)
        optimizer.step()
        schedule.step() if it < 50 else None


@pytest.mark.parametrize("name", ["cnn_mada", "cnn_adam", "cnn_hyperadam", "cnn_sgd"])
def test_a_resumed_run_is_a_straight_one(name):
    for epochs, out_dir in ((None, "straight"), (1, "twice")):
        run(f"cifar10_{name}.py", stop_after=epochs, out_dir=out_dir)
    cifar.train(*parse(declared(cifar.__file__), ["--init_from=resume", "--out_dir=twice", "--device=cpu"]))
    ends = [torch.load(f"{out_dir}/ckpt_last.pt") for out_dir in ("straight", "twice")]
    assert all(tiny.same(ends[0][key], ends[1][key]) for key in ("model", "optimizer", "iter", "best_accuracy"))
    (header, a), (_, b) = map(metrics.read, ("straight", "twice"))
    assert [r["val_loss"] for r in a] == [r["val_loss"] for r in b] and header["data"]["source"] == "test"
    with pytest.raises(UserError, match="all its 2 epochs"):
        run(init_from="resume", out_dir="twice")


def test_convolutions_are_matrices_for_muon_where_that_is_asked_for():
    """Which tensors have a momentum of Muon's, by their shapes: convolutions only if asked for, and never the head."""
    muon, linear = {"mu": 1.0, "learn": ("mu",), "epochs": 1}, [(84, 120), (120, 400)]
    for asked, wanted in ((False, linear), (True, [(6, 3, 5, 5), (16, 6, 5, 5), *linear])):
        run(muon_convolutions=asked, out_dir=f"{asked}", **muon)
        states = torch.load(f"{asked}/ckpt_last.pt")["optimizer"]["state"].values()
        assert sorted(tuple(state["u"].shape) for state in states if "u" in state) == sorted(wanted)
    with pytest.raises(UserError, match="Muon only supports 2D parameters"):
        run(optimizer="muon", muon_convolutions=True, out_dir="torch")


def test_of_an_overwritten_run_nothing_can_be_resumed():
    run(out_dir="out", epochs=3, optimizer="adam")
    with pytest.raises(Diverged):
        run(out_dir="out", epochs=5, optimizer="sgd", learning_rate=1e30, overwrite=True)
    assert metrics.read("out")[0]["config"]["optimizer"] == "sgd"
    with pytest.raises(UserError, match="there is no .*ckpt_last.pt"):
        run(init_from="resume", out_dir="out")


def test_a_folder_is_one_process_s():
    with checkpoints.hold("out"), pytest.raises(UserError, match="out_dir='out' is in use by process"):
        run(out_dir="out")


def test_resnet9_with_augmentation_is_repeatable():
    first, second = (run("cifar10_resnet9_mada.py", images=16, batch_size=8, epochs=1, out_dir=it) for it in ("a", "b"))
    assert first == second
    assert metrics.read("a")[1][0]["val_loss"] == metrics.read("b")[1][0]["val_loss"]


def test_images_that_are_held_out_are_not_trained_on(folder):
    """It trains on the first 40 images as if there were no others; accuracy on the last 24 is the model's own."""
    run(images=40, out_dir="few")
    run(held_out=24, out_dir="held")
    few, held = (torch.load(f"{out_dir}/ckpt_last.pt")["model"] for out_dir in ("few", "held"))
    assert tiny.same(few, held)
    header, records = metrics.read("held")
    assert header["data"]["counts"] == {"train": 40, "held_out": 24, "test": 32}
    assert "held_out_accuracy" not in metrics.read("few")[1][-1]
    net = cifar.cnn()
    net.load_state_dict(held)
    images, labels = (np.load(folder / f"train_{kind}.npy")[40:] for kind in ("images", "labels"))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    right = (net(x).argmax(1).numpy() == labels).mean()
    assert records[-1]["held_out_accuracy"] == pytest.approx(100 * right)


def test_learns():
    assert run("cifar10_cnn_adam.py", epochs=60, out_dir="out") > 60


def test_what_is_wrong_is_said_in_a_line(folder):
    run(out_dir="out", epochs=1)
    for settings, words in (
        ({"out_dir": "out"}, "holds another run"),
        ({"rho": 3.0, "out_dir": "x"}, "rho"),
        ({"domain": {"beta1": 5}, "out_dir": "x"}, "domain: 'beta1' needs .low, high. with low <= high, not 5"),
        ({"held_out": 64, "out_dir": "x"}, "held_out=64 of 64 training images leaves none"),
        ({"device": "abacus", "out_dir": "x"}, "device='abacus' cannot be used here"),
        ({"init_from": "resume", "out_dir": "nowhere"}, "there is no"),
        ({"init_from": "resume", "out_dir": "out", "epochs": 1, "seed": 3}, "keeps its seed"),
    ):
        with pytest.raises(UserError, match=words):
            run(**settings)
    (folder / "train_images.npy").unlink()
    with pytest.raises(UserError, match="prepare.py"):
        run(out_dir="y")
