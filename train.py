"""Train a GPT-2 on token files, with any optimizer of optim/: this file from top to bottom is what happens.

    python train.py config/train_shakespeare_char_cpu.py                     # one process, on whatever device there is
    python train.py config/train_gpt2_mada.py --batch_size=32 --compile=False
    torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2_mada.py              # one node of 8 GPUs, DDP
    torchrun --nnodes=2 --node_rank=0 --master_addr=HOST --nproc_per_node=8 train.py config/train_gpt2_mada.py
    python train.py --init_from=resume --out_dir=out/shakespeare-char-cpu    # go on where a run stopped

`python train.py --help` lists the settings. Unknown or ill-typed settings and missing data end with one line and status 2.
"""

# what and where
out_dir = "out"  # folder of metrics.jsonl, ckpt_last.pt and ckpt_best.pt
init_from = "scratch"  # "scratch", "resume" (from out_dir's ckpt_last.pt), or "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"
seed = 1337  # of the initial weights, the data order and dropout
# data
dataset = "openwebtext"  # a folder of data/, made by its prepare.py
batch_size = 480  # sequences per optimizer step over all ranks and micro-steps: the global batch
micro_batch_size: int | None = None  # sequences that one rank takes through the model at once; None: its whole share
block_size = 1024  # context length in tokens
# model
n_layer = 12  # the defaults are GPT-2 124M
n_head = 12  # attention heads
n_embd = 768  # width
dropout = 0.0  # 0 is best for pretraining; try 0.1 and more for fine-tuning and small data
bias = False  # bias in linear layers and layer norms; without is a bit better and faster, pretrained GPT-2 has it
vocab_size: int | None = None  # None: that of the data set
# optimizer: settings that are None keep the optimizer's own default
optimizer = "mada"  # a name in optim/build.py
weight_decay = 0.1  # decoupled, on tensors of two and more dimensions only
grad_clip = 1.0  # global norm to clip the gradient to; 0 for no clipping
beta1: float | None = None  # betas, in the optimizer's own convention (README); initial values where they are learned
beta2: float | None = None  # decay of the second moment for Adam and MADA
beta3: float | None = None  # Adan's part in MADA; decay of the second moment for Adan
rho: float | None = None  # MADA: AVGrad 0 ... 1 Adam
c: float | None = None  # MADA: Yogi 0 ... 1 Adam
gamma: float | None = None  # MADA: Lion 0 ... 1 the adaptive family
eps: float | None = None  # added to the root of the second moment; the paper has 1e-6 on OpenWebText
momentum: float | None = None  # sgd
learn: tuple | None = None  # names of the coefficients to learn; () for none
hyper_lr: float | dict | None = None  # learning rate of the coefficients: a number, or {name: number}
hyper_momentum: float | dict | None = None  # momentum of the coefficients, likewise
hyper_start: int | None = None  # steps before the coefficients begin to move
rule: str | None = None  # MADA: "paper", or "authors" for what the released code computes
second_moment: str | None = None  # MADA: "avgrad" or "amsgrad"
# schedule, in optimizer steps
learning_rate = 6e-4  # peak
min_lr = 1.5e-5  # at the end of the cosine, and after it
warmup_iters = 2000  # linear from 0
lr_decay_iters: int | None = None  # end of the cosine; None: max_iters
max_iters = 100_000  # optimizer steps in all
# watching
eval_interval = 1000  # steps between evaluations, each of which writes a checkpoint
eval_iters = 200  # validation micro-batches: fixed windows, evenly spread over the split; 0 for all of it
log_interval = 10  # steps between lines in metrics.jsonl
wandb_log = False  # also log to Weights & Biases, from rank 0; offline where WANDB_API_KEY is not set
wandb_project = "mada"  # project there
wandb_run_name: str | None = None  # None: the name of out_dir
# system
device = "auto"  # "cuda", "mps", "cpu", or "cuda:1"; "auto" takes the first of these three that there is
dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the matrix products; "auto": bfloat16 on GPUs that have it
compile: Literal["auto", True, False] = "auto"  # torch.compile; "auto": on CUDA where Triton is installed
timeout_minutes = 10  # after which a rank that waits for the others gives up
# -- end of settings

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import config
import optim
from config import UserError
from model import GPT, GPTConfig, peak_flops

MODEL_SETTINGS = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias", "vocab_size")
OPTIMIZER_SETTINGS = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "eps", "momentum", "learn", "hyper_lr",
                      "hyper_momentum", "hyper_start", "rule", "second_moment")
STATE_SETTINGS = ("dataset", "batch_size", "seed", "optimizer", *MODEL_SETTINGS, *OPTIMIZER_SETTINGS)  # resume keeps these
REPO = os.path.dirname(os.path.abspath(__file__))


def learning_rate_at(it, cfg):
    """Appendix C.2: linear warm-up to the peak, then a cosine down to min_lr; it = 1, 2, ... counts steps."""
    end = cfg.lr_decay_iters or cfg.max_iters
    if it <= cfg.warmup_iters:
        return cfg.learning_rate * it / cfg.warmup_iters
    progress = min(1.0, (it - cfg.warmup_iters) / max(1, end - cfg.warmup_iters))
    return cfg.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (cfg.learning_rate - cfg.min_lr)


class Tokens:
    """One split of a prepared data set, as windows of block_size tokens and their successors."""

    def __init__(self, dataset, split, block_size):
        folder = os.path.join(REPO, "data", dataset)
        self.path, self.block_size = os.path.join(folder, f"{split}.bin"), block_size
        try:
            self.meta = json.load(open(os.path.join(folder, "meta.json")))
            size = os.path.getsize(self.path) // np.dtype(self.meta["dtype"]).itemsize
        except FileNotFoundError as error:
            raise UserError(f"dataset={dataset!r}: {os.path.relpath(error.filename, REPO)} is missing; "
                              f"run: python data/{dataset}/prepare.py") from None
        if size != self.meta["counts"][split]:
            raise UserError(f"{self.path} has {size:,} tokens and meta.json says {self.meta['counts'][split]:,}; "
                              f"run again: python data/{dataset}/prepare.py")
        if size <= block_size:
            raise UserError(f"block_size={block_size} needs more than the {size:,} tokens of {self.path}")
        self.size = size

    def windows(self, starts):
        """Windows at starts (B,) -> tokens and targets, each (B, block_size) int64."""
        data = np.memmap(self.path, dtype=self.meta["dtype"], mode="r")  # a lasting map would hold every page it touched
        rows = np.stack([data[i:i + self.block_size + 1] for i in starts]).astype(np.int64)
        if rows.max() >= self.meta["vocab_size"]:
            raise UserError(f"{self.path} holds token {rows.max()}, beyond meta.json's vocabulary of {self.meta['vocab_size']}")
        rows = torch.from_numpy(rows)
        return rows[:, :-1], rows[:, 1:]

    def random_starts(self, seed, it, count):
        """The batch of step `it`: a function of the seed and the step alone."""
        return np.random.default_rng((seed, it)).integers(0, self.size - self.block_size, count)

    def spread_starts(self, count):
        """At most `count` windows (0: all) that do not overlap, evenly spread over the split."""
        whole = (self.size - 1) // self.block_size
        count = min(count, whole) if count else whole
        return np.arange(count) * whole // count * self.block_size


def train(cfg, given=()):
    """One training run. cfg: all settings, a dict; given: names of those that were set rather than defaulted.

    Returns the last validation loss. Raises UserError on bad settings, before anything is written.
    """
    # resume: the run's own settings, unless others are given; what its state depends on stays
    checkpoint = None
    if cfg["init_from"] == "resume":
        path = os.path.join(cfg["out_dir"], "ckpt_last.pt")
        if not os.path.exists(path):
            raise UserError(f"init_from='resume': there is no {path}; start with --init_from=scratch, or name the --out_dir")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        before = checkpoint["config"]
        for name in STATE_SETTINGS:
            if name in given and cfg[name] != before[name]:
                raise UserError(f"{name}={cfg[name]!r}: a resumed run keeps {name}={before[name]!r}; leave it out")
        cfg = {**cfg, **{name: value for name, value in before.items() if name not in given}, "init_from": "resume"}
    resolved, cfg = cfg, type("Settings", (), cfg)

    # processes and device
    ranks, rank, local_rank = (int(os.environ.get(name, default)) for name, default in
                               (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    if ranks > 1 and device == "cuda":
        device = f"cuda:{local_rank}"
    device_type = device.partition(":")[0]
    device_name = torch.cuda.get_device_name(device) if device_type == "cuda" else device_type
    cores = torch.get_num_threads()
    dtype = cfg.dtype
    if dtype == "auto":
        dtype = "float32" if device_type != "cuda" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    compiled = cfg.compile
    if compiled == "auto":
        compiled = device_type == "cuda" and importlib.util.find_spec("triton") is not None
    autocast = nullcontext() if dtype == "float32" else torch.autocast(device_type, getattr(torch, dtype))
    torch.set_float32_matmul_precision("high")

    # batch: global = ranks x micro-steps x micro-batch
    share, left = divmod(cfg.batch_size, ranks)
    micro = cfg.micro_batch_size or share
    if left or not share or share % micro:
        valid = [n for n in range(1, share + 1) if not left and share % n == 0]
        raise UserError(
            f"batch_size={cfg.batch_size} cannot be divided over {ranks} processes" + (
                f" x micro_batch_size={micro}; valid micro_batch_size: {', '.join(map(str, valid))}" if valid else
                f"; valid numbers of processes: {', '.join(str(n) for n in range(1, cfg.batch_size + 1) if cfg.batch_size % n == 0)}"))
    accumulation = share // micro

    # data
    train_data, val_data = (Tokens(cfg.dataset, split, cfg.block_size) for split in ("train", "val"))
    val_starts = val_data.spread_starts(cfg.eval_iters * micro * ranks)

    def batch(it):
        """This rank's part of step `it`: tokens and targets, each (accumulation, micro, block_size)."""
        starts = train_data.random_starts(cfg.seed, it, cfg.batch_size).reshape(accumulation, ranks, micro)[:, rank]
        x, y = train_data.windows(starts.reshape(-1))
        shape = (accumulation, micro, cfg.block_size)
        return on_device(x.view(shape)), on_device(y.view(shape))

    def on_device(x):
        return x.pin_memory().to(device, non_blocking=True) if device_type == "cuda" else x.to(device)

    # model
    torch.manual_seed(cfg.seed)
    try:
        if cfg.init_from in ("scratch", "resume"):
            sizes = {name: resolved[name] for name in MODEL_SETTINGS}
            model = GPT(GPTConfig(**sizes | {"vocab_size": cfg.vocab_size or train_data.meta["vocab_size"]}))
        else:
            model = GPT.from_pretrained(cfg.init_from, cfg.dropout)
    except (ValueError, OSError) as error:
        raise UserError(str(error).splitlines()[0]) from None
    if model.config.vocab_size < train_data.meta["vocab_size"]:
        raise UserError(f"vocab_size={model.config.vocab_size} is less than the data's {train_data.meta['vocab_size']}")
    if model.config.block_size < cfg.block_size:
        raise UserError(f"block_size={cfg.block_size} is more than {cfg.init_from}'s {model.config.block_size}")
    model.to(device)

    # optimizer
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    try:
        optimizer = optim.build(
            cfg.optimizer, [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=cfg.learning_rate, max_grad_norm=cfg.grad_clip, **{name: resolved[name] for name in OPTIMIZER_SETTINGS})
    except ValueError as error:
        raise UserError(str(error)) from None
    scaler = torch.amp.GradScaler(device_type, enabled=dtype == "float16")

    # where the run stands
    it, best = 0, math.inf
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scaler.load_state_dict(checkpoint["scaler"])
        it, best = checkpoint["iter"], checkpoint["best_val_loss"]
        if it >= cfg.max_iters:
            raise UserError(f"the run in {cfg.out_dir} has all its {it} steps; to go on, raise --max_iters")

    # only now is anything started or written
    if ranks > 1:
        if device_type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(minutes=cfg.timeout_minutes))
    stepper = torch.compile(model) if compiled else model
    if ranks > 1:
        stepper = DistributedDataParallel(stepper, device_ids=[local_rank] if device_type == "cuda" else None)
    log = Log(resolved, it, {
        "config": resolved, "git": git_revision(), "seed": cfg.seed, "torch": torch.__version__, "device": device_name,
        "ranks": ranks, "cpu_threads": cores, "dtype": dtype, "compile": compiled, "accumulation": accumulation,
        "parameters": sum(p.numel() for p in model.parameters()), "data": train_data.meta}) if rank == 0 else None
    if rank == 0:
        meta = train_data.meta
        log.say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {cfg.optimizer}, on {ranks} x {device_name}, {dtype}")
        log.say(f"{cfg.dataset}: {meta['counts']['train']:,} + {meta['counts']['val']:,} tokens, from {meta['source']}")
        log.say(f"each step: {accumulation} x {ranks} x {micro} sequences of {cfg.block_size} tokens; "
                f"first checkpoint after step {min(cfg.max_iters, (it // cfg.eval_interval + 1) * cfg.eval_interval)}")
    peak = peak_flops(device_name)

    def mean_over_ranks(value):
        if ranks > 1:
            dist.all_reduce(value)
        return (value / ranks).item()

    @torch.no_grad()
    def validation_loss():
        """Mean loss over the fixed windows, which the ranks share. Training randomness is not touched."""
        model.eval()
        total = torch.zeros((), dtype=torch.float64, device="cpu" if device_type == "mps" else device)
        mine = val_starts[rank::ranks]
        for i in range(0, len(mine), micro):
            x, y = map(on_device, val_data.windows(mine[i:i + micro]))
            with autocast:
                total += model(x, y).to(total) * len(x)
        model.train()
        return mean_over_ranks(total) * ranks / len(val_starts)

    def save(name):
        """Write a checkpoint of tensors and plain containers, whole or not at all."""
        path = os.path.join(cfg.out_dir, name)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                    "iter": it, "best_val_loss": best, "config": resolved, "data": train_data.meta,
                    "model_config": dataclasses.asdict(model.config)}, path + ".tmp")
        os.replace(path + ".tmp", path)

    stop = torch.zeros(1)  # set by SIGTERM or ctrl-C: finish the step, save, leave
    handlers = {name: signal.signal(name, lambda *_: stop.fill_(1)) for name in (signal.SIGTERM, signal.SIGINT)}

    # the loop
    model.train()
    val_loss, losses_lost, steps_timed, started = None, 0, 0, time.perf_counter()
    with ThreadPoolExecutor(max_workers=1) as loader:
        coming = loader.submit(batch, it + 1)
        if it == 0:
            val_loss = best = validation_loss()
            if rank == 0:
                log.write({"iter": 0, "val_loss": val_loss})
            started = time.perf_counter()
        while it < cfg.max_iters and not stop:
            it += 1
            x, y = coming.result()
            coming = loader.submit(batch, it + 1)  # read while the model computes
            lr = learning_rate_at(it, cfg)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed((cfg.seed * cfg.max_iters + it) * ranks + rank)  # dropout: a function of seed, step and rank
            train_loss = torch.zeros((), device=device)
            for i in range(accumulation):
                last = i == accumulation - 1
                with nullcontext() if last or ranks == 1 else stepper.no_sync():
                    with autocast:
                        loss = stepper(x[i], y[i]) / accumulation
                    scaler.scale(loss).backward()
                train_loss += loss.detach()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            steps_timed += 1

            done = it == cfg.max_iters
            logging, evaluating = it % cfg.log_interval == 0 or it == 1 or done, it % cfg.eval_interval == 0 or done
            if logging or evaluating:
                if ranks > 1:
                    dist.all_reduce(stop.to(device), dist.ReduceOp.MAX)
                record = {"iter": it, "train_loss": mean_over_ranks(train_loss), "lr": lr}
                seconds = (time.perf_counter() - started) / steps_timed
                record |= {"grad_norm": float(optimizer.grad_norm), "step_ms": 1e3 * seconds,
                           "tokens_per_s": cfg.batch_size * cfg.block_size / seconds}
