"""Train an image classifier on CIFAR-10, with any optimizer of optim/: Table 5 of the paper. In the style of train.py.

    python data/cifar10/prepare.py                                           # once
    python scripts/train_cifar10.py config/cifar10_cnn_mada.py               # 5-layer CNN; 6 minutes on one CPU core
    python scripts/train_cifar10.py config/cifar10_resnet9_mada.py           # ResNet-9: needs a GPU
    python scripts/train_cifar10.py --init_from=auto --out_dir=out/cifar10-cnn-mada

`--help` lists the settings. metrics.jsonl has a line per epoch; `val_loss` and `accuracy` (%) are on the 10,000 test
images, `held_out_accuracy` on training images that were held out, by which an epoch can be chosen. A run that is
stopped resumes from its last complete epoch, and computes what an uninterrupted run would.
"""

import json
import math
import sys
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import checkpoints
import metrics
import optim
import settings
from devices import here, report_out_of_memory, resolve_device, stop_signals
from settings import Count, Diverged, Finished, Fraction, Fractions, Names, Natural, Nonnegative, Rates, UserError

# -- folder [once, free]
out_dir = "out/cifar10"  # folder of metrics.jsonl and ckpt_last.pt
overwrite = False  # start over in an out_dir that holds another run, which is lost
# -- start [once]
init_from: Literal["scratch", "resume", "auto"] = "scratch"  # "resume": continue from out_dir's ckpt_last.pt
stop_after: Count | None = None  # leave after this epoch, with the schedule of all of them
# -- data [kept]
seed: Natural = 1337  # of the initial weights, the order of the images, their augmentation and dropout
dataset = "cifar10"  # a folder of data/, made by its prepare.py
model: Literal["cnn", "resnet9"] = "cnn"  # appendix C.2
images: Count | None = None  # train, and test, on the first N images only; None: on all 50,000, and 10,000
held_out: Natural = 0  # the last N of these training images are not trained on; their accuracy is logged
batch_size: Count = 256  # images per step; the last batch of an epoch may be smaller
epochs: Count = 50  # passes through the training images
augment = False  # random crops out of a reflected border of 4 pixels, and mirror images
# -- optimizer [kept]
optimizer = "mada"  # a name in optim/build.py
learning_rate: Nonnegative = 1e-3  # constant, or the peak
schedule: Literal["constant", "one_cycle"] = "constant"  # or torch's OneCycleLR by default, of the learning rate only
weight_decay: Nonnegative = 0.0  # the paper names none
grad_clip: Nonnegative = 0.0  # global norm to clip the gradient to; 0 for no clipping
muon_convolutions = False  # Muon's share is for convolutions too, as matrices (output channels, the rest)
# -- hyperparameters [kept]: the optimizer's own, by its names for them; None keeps its default
beta1: float | None = None  # betas, in the optimizer's own convention (docs/optimizers.md); initial ones where learned
beta2: float | None = None  # decay of the second moment for Adam and MADA
beta3: float | None = None  # Adan's part in MADA; decay of the second moment for Adan
rho: float | None = None  # MADA: AVGrad 0 ... 1 Adam
c: float | None = None  # MADA: Yogi 0 ... 1 Adam
gamma: float | None = None  # MADA: Lion 0 ... 1 the adaptive family
mu: float | None = None  # MADA: Adam and the rest 0 ... 1 Muon, for hidden matrices
eps: Nonnegative | None = None  # added to the root of the second moment; the paper has 1e-6 on OpenWebText
momentum: Fraction | None = None  # sgd
learn: Names | None = None  # names of the coefficients to learn; () for none
hyper_lr: Nonnegative | Rates | None = None  # learning rate of the coefficients: a number, or {name: number}
hyper_momentum: Fraction | Fractions | None = None  # momentum of the coefficients, likewise
hyper_start: Natural | None = None  # steps before the coefficients begin to move
debias: str | None = None  # what moving averages are divided by: "weights" that they gathered, or "powers", 1 - beta^t
hyper_scale: str | None = None  # of the hyper-gradients: "relative", or "raw" as in the paper
grow_lr: bool | None = None  # MADA, HyperAdam: learn a factor on the learning rate that only grows
domain: dict | None = None  # {name: (low, high)}: bounds on learned coefficients in place of the optimizer's own
rule: str | None = None  # MADA: "paper", or "authors" for what the released code computes
# -- machine [free]
device = "auto"  # "cuda", "mps", "cpu"; "auto" takes the first of these three that there is
# -- end of settings

FOLDER = Path(__file__).resolve().parents[1] / "data"
SETTINGS = settings.declared(__file__)


def cnn() -> nn.Sequential:
    """Appendix C.2: two convolutions with 6 and 16 channels, three linear layers, 62,006 parameters. (N, 3, 32, 32)"""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (N, 6, 14, 14)
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (N, 16, 5, 5)
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def block(before, after, *pool):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), *pool)


def resnet9() -> nn.Sequential:
    """ResNet-9, which appendix C.2 points to: eight convolutions with batch norm, a linear layer, 6.6M parameters."""
    return nn.Sequential(
        block(3, 64),
        block(64, 128, nn.MaxPool2d(2)),
        Residual(block(128, 128), block(128, 128)),  # (N, 128, 16, 16)
        block(128, 256, nn.MaxPool2d(2)),
        block(256, 512, nn.MaxPool2d(2)),  # (N, 512, 4, 4)
        Residual(block(512, 512), block(512, 512)),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(512, 10),
    )


MODELS = {"cnn": cnn, "resnet9": resnet9}


def learning_rate_at(it: int, total: int, cfg: SimpleNamespace) -> float:
    """The learning rate of step it = 1 ... total."""

    def cosine(start, end, part):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    peak = cfg.learning_rate
    if cfg.schedule == "constant":
        return peak
    rise = 0.3 * total - 1  # up from peak / 25 in the first 30 % of the steps, then down to peak / 250,000
    if it - 1 <= rise:
        return cosine(peak / 25, peak, (it - 1) / rise)
    return cosine(peak, peak / 25e4, (it - 1 - rise) / (total - 1 - rise))


def load(folder: Path, split: str, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` images of a split in a folder, (N, 32, 32, 3) uint8, and their labels, (N,) int64.

    Raises UserError.
    """
    try:
        arrays = [np.load(folder / f"{split}_{kind}.npy", mmap_mode="r")[:count] for kind in ("images", "labels")]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"CIFAR-10 is missing: {error}; run: python data/cifar10/prepare.py") from None
    return torch.from_numpy(arrays[0].copy()), torch.from_numpy(arrays[1].astype(np.int64))


def source(folder: Path) -> str:
    """What meta.json says about where the images come from."""
    try:
        return json.loads((folder / "meta.json").read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def train(cfg: dict, given: Collection[str] = ()) -> float | None:
    """One training run. cfg: all settings, a dict; given: names of those that were set rather than defaulted.

    Returns the last test accuracy in %, or None if it was stopped before its end. Raises UserError on bad settings,
    before anything is written; Diverged if the loss is no longer finite; Finished if there is nothing left to resume.
    """
    with report_out_of_memory("a smaller batch_size takes less"), checkpoints.hold(cfg["out_dir"]):
        return run(cfg, given)


def run(cfg, given):
    """`train`, in a folder that is ours."""
    # where to start
    checkpoint, cfg = checkpoints.start(cfg, given, SETTINGS, ("model", "optimizer", "iter", "best_accuracy", "config"))
    resolved, cfg = cfg, SimpleNamespace(**cfg)

    # device
    device = resolve_device(cfg.device)
    torch.set_float32_matmul_precision("high")

    # data: all of it on the device
    folder = FOLDER / cfg.dataset
    x_train, y_train = (x.to(device) for x in load(folder, "train", cfg.images))
    x_test, y_test = (x.to(device) for x in load(folder, "test", cfg.images))
    count = len(y_train) - cfg.held_out
    if count < 1:
        raise UserError(f"held_out={cfg.held_out} of {len(y_train)} training images leaves none; hold fewer out")
    (x_train, x_held), (y_train, y_held) = (x.split([count, cfg.held_out]) for x in (x_train, y_train))
    if cfg.model == "cnn":  # to [-1, 1]
        mean, deviation = torch.tensor(127.5, device=device), torch.tensor(127.5, device=device)
    else:  # each channel by its statistics over the training images
        channels = x_train.flatten(0, 2).double()
        mean, deviation = (x.float().view(3, 1, 1) for x in (channels.mean(0), channels.std(0)))

    def pixels(x):
        """(N, 32, 32, 3) uint8 -> (N, 3, 32, 32) float32, in the memory order that convolutions like."""
        return (x.permute(0, 3, 1, 2).float() - mean) / deviation

    def batches(epoch):
        """The training images of an epoch = 1, 2, ...: a function of the seed and the epoch alone."""
        rng, line = np.random.default_rng((cfg.seed, epoch)), torch.arange(32, device=device)
        for i in torch.from_numpy(rng.permutation(count)).to(device).split(cfg.batch_size):
            x = x_train[i]
            if cfg.augment:
                down, right, mirror = (
                    torch.from_numpy(rng.integers(0, n, (len(i), 1, 1))).to(device) for n in (9, 9, 2)
                )
                rows = (line.view(1, 32, 1) + down - 4).abs()  # (N, 32, 1)
                columns = (torch.where(mirror == 1, 31 - line, line) + right - 4).abs()  # (N, 1, 32)
                x = x_train[i.view(-1, 1, 1), 31 - (31 - rows).abs(), 31 - (31 - columns).abs()]
            yield pixels(x), y_train[i]

    # model and optimizer
    torch.manual_seed(cfg.seed)
    model = MODELS[cfg.model]().to(device, memory_format=torch.channels_last)
    try:
        optimizer = optim.build(
            cfg.optimizer,
            model.parameters(),
            hidden=optim.hidden_matrices(model, cfg.muon_convolutions),
            lr=cfg.learning_rate,
            weight_decay=cfg.weight_decay,
            max_grad_norm=cfg.grad_clip,
            **settings.section(SETTINGS, "hyperparameters", resolved),
        )
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    it, best = 0, 0.0
    steps = math.ceil(count / cfg.batch_size)
    if checkpoint:
        with checkpoints.fitting(checkpoint["path"]):
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
        it, best = checkpoint["iter"], checkpoint["best_accuracy"]
    first, end = it // steps + 1, min(cfg.epochs, cfg.stop_after or cfg.epochs)
    if first > end:
        raise Finished(f"the run in {cfg.out_dir} has all its {end} epochs")

    # only now is anything written
    if not checkpoint:
        checkpoints.clear(cfg.out_dir)  # of a run that is overwritten
    parameters = sum(p.numel() for p in model.parameters())
    log = metrics.Metrics(
        cfg.out_dir,
        {
            "config": resolved,
            "seed": cfg.seed,
            **here(device),
            "dtype": "float32",
            "parameters": parameters,
            "data": {
                "source": source(folder),
                "counts": {"train": count, "held_out": cfg.held_out, "test": len(y_test)},
            },
        },
        it,
        cfg.epochs * steps,
    )
    log.say(
        f"{cfg.model}, {parameters:,} parameters, optimizer {cfg.optimizer}, {count:,} images, {steps} steps per epoch"
    )

    @torch.no_grad()
    def evaluate(images, labels):
        """Mean loss and accuracy (%) on images as `load` gives them."""
        model.eval()
        loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            output = model(pixels(x))
            loss += F.cross_entropy(output, y, reduction="sum")
            right += (output.argmax(1) == y).sum()
        model.train()
        return loss.item() / len(labels), 100 * right.item() / len(labels)

    # the loop
    accuracy = math.nan
    with closing(log), stop_signals() as stop:  # a resumed run does the epoch under way again
        for epoch in range(first, end + 1):
            start, total = time.perf_counter(), torch.zeros((), device=device)
            model.train()
            for x, y in batches(epoch):
                it += 1
                lr = learning_rate_at(it, cfg.epochs * steps, cfg)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(int(np.random.SeedSequence((cfg.seed, it)).generate_state(1)[0]))  # dropout
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach() * len(y)
                if stop.is_set():
                    log.say(f"stopped in epoch {epoch}; resume with --init_from=auto --out_dir={cfg.out_dir}")
                    return None
            record = {
                "iter": it,
                "epoch": epoch,
                "train_loss": total.item() / count,
                "lr": lr,
                "step_ms": 1e3 * (time.perf_counter() - start) / steps,
            }
            for name in ("coefficients", "hyper_gradients", "skipped_steps"):
                if hasattr(optimizer, name):
                    record[name] = getattr(optimizer, name)
            if cfg.held_out:
                record["held_out_accuracy"] = evaluate(x_held, y_held)[1]
            record["val_loss"], accuracy = evaluate(x_test, y_test)
            best = max(best, accuracy)
            log.write(record | {"accuracy": accuracy, "best_accuracy": best})
            if not math.isfinite(record["train_loss"]):
                raise Diverged(f"the loss is not finite in epoch {epoch}; a lower learning_rate may help")
            checkpoints.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "iter": it,
                    "best_accuracy": best,
                    "config": resolved,
                },
                cfg.out_dir,
            )
    return accuracy


if __name__ == "__main__":
    settings.main(train, __file__)
