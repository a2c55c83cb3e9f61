"""Train a GPT-2 on token files, with any optimizer of optim/: this file from top to bottom is what happens.

    python train.py config/train_shakespeare_char_cpu.py                     # one process, on whatever device there is
    python train.py config/train_gpt2_mada.py --batch_size=32 --compile=False
    torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2_mada.py              # one node of 8 GPUs, DDP
    torchrun --nnodes=2 --node_rank=0 --master_addr=HOST --nproc_per_node=8 train.py config/train_gpt2_mada.py
    python train.py --init_from=resume --out_dir=out/shakespeare-char-cpu    # go on where a run stopped

`python train.py --help` lists the settings. Unknown or ill-typed settings and missing data end with one line and status 2.
"""

import dataclasses
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from threading import Event
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import checkpoints
import metrics
import optim
import settings
from data.tokens import Tokens
from devices import hardware, usable
from model import GPT, GPTConfig, peak_flops
from settings import Diverged, Finished, UserError

# what and where
out_dir = "out"  # folder of metrics.jsonl, ckpt_last.pt and ckpt_best.pt
overwrite = False  # start anew in an out_dir that holds another run, which is lost
init_from = "scratch"  # "scratch", "resume" (out_dir's ckpt_last.pt), "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"
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
hyper_clip: float | None = None  # bound on each hyper-gradient; None: 10
hyper_optimizer: str | None = None  # how the coefficients descend: "sgd", the paper's, "adam" or "sign"
debias: str | None = None  # what moving averages are divided by: "weights" that they gathered, or "powers", 1 - beta^t
hyper_scale: str | None = None  # of the hyper-gradients: "relative", or "raw" as in the paper
domain: dict | None = None  # {name: (low, high)}: bounds on learned coefficients in place of the optimizer's own
state_dtype: str | None = None  # "bfloat16": keep the optimizer's moments of the gradient, but not of its square, in it
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
eval_iters = 0  # validation batches, of batch_size fixed windows spread evenly over the split; 0: the whole split
eval_train = False  # evaluate on as many windows of the training split too: the loss without dropout, as in Figure 8
log_interval = 10  # steps between lines in metrics.jsonl
wandb_log = False  # also log to Weights & Biases, from rank 0; offline where WANDB_API_KEY is not set
wandb_project = "mada"  # project there
wandb_run_name: str | None = None  # None: the name of out_dir
# system
device = "auto"  # "cuda", "mps", "cpu", or "cuda:1"; "auto" takes the first of these three that there is
dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of products; "auto": bfloat16 on GPUs that have it
compile: bool | Literal["auto"] = "auto"  # torch.compile of the model; "auto": on CUDA, where it works
checkpoint_activations = False  # recompute each block's in the backward pass: less memory, a third more compute
shard = False  # split parameters, gradients and optimizer state over the ranks (FSDP2) instead of copying them (DDP)
timeout_minutes = 10  # after which a rank that waits for the others gives up
# -- end of settings

MODEL_SETTINGS = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias", "vocab_size")
OPTIMIZER_SETTINGS = (
    "beta1",
    "beta2",
    "beta3",
    "rho",
    "c",
    "gamma",
    "eps",
    "momentum",
    "learn",
    "hyper_lr",
    "hyper_momentum",
    "hyper_start",
    "hyper_clip",
    "hyper_optimizer",
    "hyper_scale",
    "debias",
    "domain",
    "state_dtype",
    "rule",
    "second_moment",
)
KEPT_SETTINGS = (
    "seed",
    "dataset",
    "batch_size",
    "optimizer",
    "weight_decay",
    "grad_clip",  # by a resumed run
    *MODEL_SETTINGS,
    *OPTIMIZER_SETTINGS,
)
LEAST = {
    "seed": 0,
    "batch_size": 1,
    "micro_batch_size": 1,
    "block_size": 1,
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 1,
    "grad_clip": 0,
    "min_lr": 0,
    "warmup_iters": 0,
    "lr_decay_iters": 1,
    "max_iters": 1,
    "eval_interval": 1,
    "eval_iters": 0,
    "log_interval": 1,
    "timeout_minutes": 1,
}


def learning_rate_at(it, cfg):
    """Appendix C.2: linear warm-up to the peak, then a cosine down to min_lr; it = 1, 2, ... counts steps."""
    end = cfg.lr_decay_iters or cfg.max_iters
    if it <= cfg.warmup_iters:
        return cfg.learning_rate * it / cfg.warmup_iters
    progress = min(1.0, (it - cfg.warmup_iters) / max(1, end - cfg.warmup_iters))
    return cfg.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (cfg.learning_rate - cfg.min_lr)


def cannot_compile(device):
    """Why torch.compile does not work here, in one line; None where it does."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a missing compiler, Triton or driver raises
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def train(cfg, given=()):
    """One training run. cfg: all settings, a dict; given: names of those that were set rather than defaulted.

    Returns the last validation loss, or None if it was stopped before its end. Raises UserError on bad settings, before
    anything is written; Diverged where the loss is no longer finite; Finished where there is nothing left to resume.
    """
    # where to start
    checkpoint, cfg = checkpoints.start(cfg, given, KEPT_SETTINGS)
    last = os.path.join(cfg["out_dir"], "ckpt_last.pt")
    for name, least in LEAST.items():
        if cfg[name] is not None and not cfg[name] >= least:
            raise UserError(f"{name}={cfg[name]!r} must be at least {least}")
    resolved, cfg = cfg, SimpleNamespace(**cfg)

    # processes, device, number format
    ranks, rank, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    device = cfg.device
    if ranks > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        if int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
            raise UserError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes but {torch.cuda.device_count()} GPUs on this "
                "machine: lower --nproc_per_node"
            )
        device = f"cuda:{local_rank}"
    if cfg.shard and ranks == 1:
        raise UserError("shard=True splits the model over several processes: start them with torchrun")
    device = usable(device)
    device_type = device.partition(":")[0]
    device_name = hardware(device)
    dtype = cfg.dtype
    if dtype == "auto":
        dtype = "float32" if device_type != "cuda" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    autocast = nullcontext() if dtype == "float32" else torch.autocast(device_type, getattr(torch, dtype))
    torch.set_float32_matmul_precision("high")

    # batch: global = ranks x micro-steps x micro-batch
    share, left = divmod(cfg.batch_size, ranks)
    micro = cfg.micro_batch_size or share or 1
    if left or share % micro:
        what, number = ("numbers of processes", cfg.batch_size) if left else ("micro_batch_size", share)
        raise UserError(
            f"batch_size={cfg.batch_size} cannot be divided over {ranks} processes and "
            f"micro_batch_size={micro}; valid {what}: "
            f"{', '.join(str(n) for n in range(1, number + 1) if number % n == 0)}"
        )
    accumulation = share // micro

    # data
    train_data, val_data = (Tokens(cfg.dataset, split, cfg.block_size) for split in ("train", "val"))

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
        if checkpoint:
            model = GPT(GPTConfig(**checkpoint["model_config"]))
        elif cfg.init_from == "scratch":
            sizes = {name: resolved[name] for name in MODEL_SETTINGS}
            model = GPT(GPTConfig(**sizes | {"vocab_size": cfg.vocab_size or train_data.meta["vocab_size"]}))
        else:
            model = GPT.from_pretrained(cfg.init_from, cfg.dropout)
            resolved |= dataclasses.asdict(model.config) | {
                "block_size": cfg.block_size
            }  # the sizes come with the weights
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"init_from={cfg.init_from!r} is not scratch or resume, and cannot be had as pretrained weights: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if model.config.vocab_size < train_data.meta["vocab_size"]:
        raise UserError(f"vocab_size={model.config.vocab_size} is less than the data's {train_data.meta['vocab_size']}")
    if model.config.block_size < cfg.block_size:
        raise UserError(f"block_size={cfg.block_size} is more than {cfg.init_from}'s {model.config.block_size}")
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
    model.to(device)
    model.checkpoint_activations = cfg.checkpoint_activations
    it = checkpoint["iter"] if checkpoint else 0
    if it >= cfg.max_iters:
        raise Finished(f"the run in {cfg.out_dir} has all its {it} steps; to go on, raise --max_iters")

    # several processes: each has the whole model (DDP), or a part of every tensor (FSDP2)
    if ranks > 1:
        if device_type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if device_type == "cuda" else "gloo", timeout=timedelta(minutes=cfg.timeout_minutes)
        )
    if cfg.shard:
        mesh = init_device_mesh(device_type, (ranks,))
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    # optimizer
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    try:
        optimizer = optim.build(
            cfg.optimizer,
            [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=cfg.learning_rate,
            max_grad_norm=cfg.grad_clip,
            **{name: resolved[name] for name in OPTIMIZER_SETTINGS},
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    scaler = torch.amp.GradScaler(device_type, enabled=dtype == "float16")

    best = math.inf
    if checkpoint:
        optimizer.load_state_dict(checkpoints.shared_out(checkpoint["optimizer"], [*matrices, *others]))
        scaler.load_state_dict(checkpoint["scaler"])
        best = checkpoint["best_val_loss"]

    # compilation
    compiled = cfg.compile if cfg.compile != "auto" else device_type == "cuda"
    if compiled and (problem := cannot_compile(device)):
        if cfg.compile != "auto":
            raise UserError(f"compile=True: torch.compile does not work here: {problem}")
        compiled = False
    stepper = torch.compile(model) if compiled else model
    if ranks > 1 and not cfg.shard:
        stepper = DistributedDataParallel(stepper, device_ids=[local_rank] if device_type == "cuda" else None)

    # only now is anything written
    parameters, meta = sum(p.numel() for p in model.parameters()), train_data.meta
    if rank == 0:
        for name in () if checkpoint else ("ckpt_last.pt", "ckpt_best.pt"):  # of a run that is overwritten
            if os.path.exists(os.path.join(cfg.out_dir, name)):
                os.remove(os.path.join(cfg.out_dir, name))
        key = os.environ.get("WANDB_API_KEY")
        log = metrics.Metrics(
            cfg.out_dir,
            {
                "config": resolved,
                "git": metrics.git_revision(),
                "seed": cfg.seed,
                "torch": torch.__version__,
                "device": device_name,
                "ranks": ranks,
                "cpu_threads": torch.get_num_threads(),
                "dtype": dtype,
                "compile": compiled,
                "accumulation": accumulation,
                "parameters": parameters,
                "data": meta,
            },
            it,
            cfg.max_iters,
            wandb={
                "project": cfg.wandb_project,
                "name": cfg.wandb_run_name or os.path.basename(os.path.normpath(cfg.out_dir)),
                "mode": os.environ.get("WANDB_MODE") or ("online" if key else "offline"),
            }
            if cfg.wandb_log
            else None,
        )
        if cfg.compile == "auto" and device_type == "cuda" and not compiled:
            log.say(f"without torch.compile, which does not work here: {problem}")
        log.say(f"{parameters:,} parameters, optimizer {cfg.optimizer}, on {ranks} x {device_name}, {dtype}")
        log.say(f"{cfg.dataset}: {meta['counts']['train']:,} + {meta['counts']['val']:,} tokens from {meta['source']}")
        log.say(
            f"each step: {accumulation} x {ranks} x {micro} sequences of {cfg.block_size} tokens; first checkpoint "
            f"after step {min(cfg.max_iters, (it // cfg.eval_interval + 1) * cfg.eval_interval)}, in {cfg.out_dir}"
        )
    peak = peak_flops(device_name)

    reduced = [
        None
    ]  # the last tensor that was; gloo's thread must not be the one to free it, or the run may hang at exit

    def mean_over_ranks(value):
        if ranks > 1:
            dist.all_reduce(value)
            reduced[0] = value
        return (value / ranks).item()

    @torch.no_grad()
    def mean_loss(split):
        """Over the fixed windows of a split, which the ranks share. Training randomness is not touched."""
        starts = split.spread_starts(cfg.eval_iters * cfg.batch_size)
        model.eval()
        total = torch.zeros((), device=device)
        for i in range(0, len(starts), micro * ranks):
            mine = starts[i + rank * micro : i + (rank + 1) * micro]
            x, y = map(on_device, split.windows(mine if len(mine) else starts[:1]))  # FSDP wants all ranks to call
            with autocast:
                total += model(x, y) * len(mine)
        model.train()
        return mean_over_ranks(total) * ranks / len(starts)

    def save(*names):
        """Write checkpoints of whole tensors and plain containers, each complete or not at all. All ranks call it."""
        state = checkpoints.whole(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "iter": it,
                "best_val_loss": best,
                "config": resolved,
                "data": meta,
                "model_config": dataclasses.asdict(model.config),
            }
        )
        for name in names if rank == 0 else ():
            checkpoints.write(state, os.path.join(cfg.out_dir, name))

    # the loop
    stop = Event()  # set by SIGTERM or ctrl-C: finish the step, save, leave
    handlers = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    loader = ThreadPoolExecutor(max_workers=1)
    coming = loader.submit(batch, it + 1)
    val_loss, saved, lost, since = math.nan, it, 0, None
    model.train()
    try:
        if it == 0:
            val_loss = mean_loss(val_data)
            if rank == 0:
                log.write({"iter": 0, "val_loss": val_loss})
        while it < cfg.max_iters:
            it += 1
            x, y = coming.result()
            coming = loader.submit(batch, it + 1)  # read while the model computes
            lr = learning_rate_at(it, cfg)
            for group in optimizer.param_groups:
                group["lr"] = lr
            # dropout, like the batch, depends on the seed and the step; ranks see different sequences and draw differently
            torch.manual_seed(int(np.random.SeedSequence((cfg.seed, it, rank)).generate_state(1)[0]))
            train_loss = torch.zeros((), device=device)
            for i in range(accumulation):
                last_part = i == accumulation - 1  # only then are gradients exchanged
                if cfg.shard:
                    model.set_requires_gradient_sync(last_part)
                with nullcontext() if last_part or cfg.shard or ranks == 1 else stepper.no_sync():
                    with autocast:
                        loss = stepper(x[i], y[i]) / accumulation
                    scaler.scale(loss).backward()
                train_loss += loss.detach()
            scaler.unscale_(optimizer)
            optimizer.step()  # not scaler.step: it skips by itself, and counts, what is not finite
            scaler.update()
            optimizer.zero_grad()

            done = it == cfg.max_iters
            evaluating = done or it % cfg.eval_interval == 0
            logging = evaluating or it == 1 or it % cfg.log_interval == 0
            if logging:
                record = {
                    "iter": it,
                    "train_loss": mean_over_ranks(train_loss),
                    "lr": lr,
                    "grad_norm": float(optimizer.grad_norm),
                }
                if since is not None:  # the first step, which compiles and allocates, is not timed
                    seconds = (time.perf_counter() - since[1]) / (it - since[0])
                    tokens_per_s = cfg.batch_size * cfg.block_size / seconds
                    record |= {"step_ms": 1e3 * seconds, "tokens_per_s": tokens_per_s}
                    if peak:
                        record["mfu"] = model.flops_per_token(cfg.block_size) * tokens_per_s / (peak * ranks)
                for name in ("coefficients", "hyper_gradients", "skipped_steps"):
                    if hasattr(optimizer, name):
                        record[name] = getattr(optimizer, name)
                if evaluating:
                    record["val_loss"] = val_loss = mean_loss(val_data)
                    if cfg.eval_train:
                        record["eval_train_loss"] = mean_loss(train_data)
                if rank == 0:
                    log.write(record)
                if evaluating and math.isfinite(val_loss):
                    is_best, best, saved = val_loss < best, min(best, val_loss), it
                    save("ckpt_last.pt", *["ckpt_best.pt"] * is_best)
                lost = 0 if math.isfinite(record["train_loss"]) else lost + 1
                if lost == 3 or lost and done:
                    raise Diverged(
                        f"the loss is not finite at step {it}{' and at the two log lines before' * (lost == 3)}"
                        f"; the last good checkpoint is {f'{last}, of step {saved}' if saved else 'none'}; "
                        "a lower learning_rate may help"
                    )
                since = it, time.perf_counter()
            stopping = stop.is_set()
            if ranks > 1:  # they agree on it when they log
                stopping = logging and mean_over_ranks(torch.tensor(float(stopping), device=device)) > 0
            if stopping:
                if saved < it and train_loss.isfinite():
                    saved = it
                    save("ckpt_last.pt")
                if rank == 0:
                    log.say(f"stopped after step {it}; go on with --init_from=resume --out_dir={cfg.out_dir}")
                return None if it < cfg.max_iters else val_loss
    finally:
        loader.shutdown(cancel_futures=True)
        for name, handler in handlers.items():
            signal.signal(name, handler)
        if rank == 0:
            log.close()
        if ranks > 1:
            dist.destroy_process_group()
    return val_loss


if __name__ == "__main__":
    settings.main(train, __file__)
