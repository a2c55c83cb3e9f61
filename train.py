"""Train a GPT-2 on token files, with any optimizer of optim/: this file from top to bottom is what happens.

    python train.py config/train_shakespeare_char_cpu.py                     # one process, on whatever device there is
    torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2_mada.py              # one node of 8 GPUs, DDP
    torchrun --nnodes=2 --node_rank=0 --master_addr=HOST --nproc_per_node=8 train.py config/train_gpt2_mada.py
    python train.py --init_from=resume --out_dir=out/shakespeare-char-cpu    # resume a run that stopped
    torchrun --max-restarts=3 ... train.py config/train_gpt2_mada.py --init_from=auto        # also after a crash

`python train.py --help` lists the settings. Unknown or ill-typed settings and missing data end with one line and status
2; SIGTERM, SIGINT, SIGHUP and SIGUSR1 save a checkpoint and end with status 75, which means "resume me" (torchrun: 1).
"""

import dataclasses
import gc
import math
import os
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch

import checkpoints
import devices
import metrics
import optim
import settings
from data.tokens import splits
from model import GPT, GPTConfig, peak_flops
from parallel import Parallel, attention, load_optimizer, on_cpu
from pretrained import check_tokens, pretrained_tokens
from settings import Count, Diverged, Finished, Fraction, Fractions, Names, Natural, Nonnegative, Rates, UserError

# marks: kept: a resumed run keeps it; once: it holds for this call only; free: it does not change what is computed
# -- folder [once, free]
out_dir = "out"  # folder of metrics.jsonl and the checkpoints; one process at a time may use it
overwrite = False  # start over in an out_dir that holds another run, which is lost
# -- start [once]
init_from = "scratch"  # "resume" out_dir's ckpt_last.pt, "auto": that if it is there; or "gpt2", an exported folder
# -- data [kept]
seed: Natural = 1337  # of the initial weights, the data order and dropout
dataset = "openwebtext"  # a folder of data/, made by its prepare.py
batch_size: Count = 480  # sequences per optimizer step over all ranks and micro-steps: the global batch
# -- model [kept]: the defaults are GPT-2 124M
block_size: Count = 1024  # context length in tokens
n_layer: Count = 12  # transformer blocks
n_head: Count = 12  # attention heads
n_embd: Count = 768  # width
dropout: Fraction = 0.0  # 0 is best for pretraining; try 0.1 and more for fine-tuning and small data
bias = False  # bias in linear layers and layer norms; without is a bit better and faster, pretrained GPT-2 has it
vocab_size: Count | None = None  # None: that of the data set
# -- optimizer [kept]
optimizer = "mada"  # a name in optim/build.py
weight_decay: Nonnegative = 0.1  # decoupled, on tensors of two and more dimensions only
grad_clip: Nonnegative = 1.0  # global norm to clip the gradient to; 0 for no clipping
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
hyper_clip: Nonnegative | None = None  # bound on each hyper-gradient; None: 10
hyper_optimizer: str | None = None  # how the coefficients descend: "sgd", the paper's, "adam" or "sign"
debias: str | None = None  # what moving averages are divided by: "weights" that they gathered, or "powers", 1 - beta^t
hyper_scale: str | None = None  # of the hyper-gradients: "relative", or "raw" as in the paper
grow_lr: bool | None = None  # MADA, HyperAdam: learn a factor on the learning rate that only grows
domain: dict | None = None  # {name: (low, high)}: bounds on learned coefficients in place of the optimizer's own
state_dtype: str | None = None  # "bfloat16": keep the optimizer's moments of the gradient, but not of its square, in it
rule: str | None = None  # MADA: "paper", or "authors" for what the released code computes
second_moment: str | None = None  # MADA: "avgrad" or "amsgrad"
# -- schedule: in optimizer steps
learning_rate: Nonnegative = 6e-4  # peak
min_lr: Nonnegative = 1.5e-5  # at the end of the cosine, and after it
warmup_iters: Natural = 2000  # linear from 0
lr_decay_iters: Count | None = None  # end of the cosine; None: max_iters
max_iters: Count = 100_000  # optimizer steps in all
# -- evaluation
eval_interval: Count = 1000  # steps between evaluations, each of which writes a checkpoint
eval_iters: Natural = 0  # validation batches: fixed windows, spread evenly over the split; 0: the whole split
eval_train = False  # evaluate on as many windows of the training split too: the loss without dropout, as in Figure 8
log_interval: Count = 10  # steps between lines in metrics.jsonl
# -- computation
micro_batch_size: Count | None = None  # sequences that one rank takes through the model at once; None: its whole share
dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of products; "auto": bfloat16 on GPUs that have it
compile: bool | Literal["auto"] = "auto"  # torch.compile of the model; "auto": on CUDA, where it works
checkpoint_activations = False  # recompute each block's in the backward pass: less memory, a third more compute
shard = False  # split parameters, gradients and optimizer state over the ranks (FSDP2) instead of copying them (DDP)
# -- machine [free]
device = "auto"  # "cuda", "mps", "cpu", or "cuda:1"; "auto" takes the first of these three that there is
verify = False  # first compare all of the token files, and not a sample only, with the hashes in meta.json
timeout_minutes: Count = 10  # after which a rank that waits for the others gives up
check_interval: Natural = 1000  # steps between comparisons of a hash of the ranks' parameters; 0: never
max_bad_steps: Count = 30  # stop after this many steps in a row whose loss or gradient is not finite
wandb_log = False  # also log to Weights & Biases, from rank 0; offline where WANDB_API_KEY is not set
wandb_project = "mada"  # project there
wandb_run_name: str | None = None  # None: the name of out_dir
tensorboard_log = False  # also write TensorBoard's event files to out_dir: tensorboard --logdir out shows all runs
# -- end of settings

SETTINGS = settings.declared(__file__)
STOP_WITHIN = 5  # seconds after a signal, if there are several processes: torchrun kills those that take 30


def section(title: str, cfg: dict) -> dict:
    """The settings of one section: {name: value}."""
    return settings.section(SETTINGS, title, cfg)


def learning_rate_at(it: int, cfg: SimpleNamespace) -> float:
    """Appendix C.2: linear warm-up to the peak, then a cosine down to min_lr; it = 1, 2, ... counts steps."""
    end = cfg.lr_decay_iters or cfg.max_iters
    if it <= cfg.warmup_iters:
        return cfg.learning_rate * it / cfg.warmup_iters
    progress = min(1.0, (it - cfg.warmup_iters) / max(1, end - cfg.warmup_iters))
    return cfg.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (cfg.learning_rate - cfg.min_lr)


def make_model(cfg: SimpleNamespace, checkpoint: dict | None, vocab_size: int, given: Collection[str] = ()) -> GPT:
    """The model to train: the checkpoint's, a new one, or a pretrained one.

    vocab_size: the data's; given: names of the settings that were set. Raises UserError.
    """
    torch.manual_seed(cfg.seed)
    try:
        if checkpoint or cfg.init_from == "scratch":
            sizes = section("model", vars(cfg)) | {"vocab_size": cfg.vocab_size or vocab_size}
            config = GPTConfig(**(checkpoint["model_config"] if checkpoint else sizes))
            devices.check_memory(4 * config.matrix_entries(), f"a model of {config.matrix_entries():,} parameters")
            model = GPT(config)
            if checkpoint:
                model.load_state_dict(checkpoint["model"])
        else:
            try:
                model = GPT.from_pretrained(cfg.init_from, cfg.dropout)
            except Exception as error:  # noqa: BLE001 what is loaded may be wrong in any way
                what = "is not scratch, resume or auto, and no pretrained weights could be loaded under that name"
                raise UserError(f"init_from={cfg.init_from!r} {what}: {settings.one_line(error)}") from None
            for name in given:
                wanted = getattr(cfg, name)
                has = getattr(model.config, name, wanted)
                if name not in ("dropout", "block_size") and wanted not in (None, has):
                    raise UserError(
                        f"{name}={wanted!r}: the weights of {cfg.init_from} have {name}={has!r}; leave it out"
                    )
    except ValueError as error:
        raise UserError(f"{checkpoint['path']}: {error}" if checkpoint else str(error)) from None
    if model.config.vocab_size < vocab_size:
        raise UserError(f"vocab_size={model.config.vocab_size} is less than the data's {vocab_size}")
    if model.config.block_size < cfg.block_size:
        raise UserError(f"block_size={cfg.block_size} is more than {cfg.init_from}'s {model.config.block_size}")
    return model


def make_optimizer(cfg: SimpleNamespace, model: GPT) -> torch.optim.Optimizer:
    """The optimizer that the settings ask for, without state. Only matrices decay. Raises UserError."""
    try:
        return optim.build(
            cfg.optimizer,
            optim.decay_matrices(model.parameters(), cfg.weight_decay),
            lr=cfg.learning_rate,
            hidden=optim.hidden_matrices(model),
            max_grad_norm=cfg.grad_clip,
            **section("hyperparameters", vars(cfg)),
        )
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None


def drop_foreign_settings(cfg: dict, given: Collection[str]) -> tuple[dict, list[str]]:
    """The settings, without those from config files that the optimizer does not have, and the names of these.

    Raises UserError if there is no such optimizer.
    """
    try:
        known = optim.flat(cfg["optimizer"])
    except ValueError as error:
        raise UserError(str(error)) from None
    others = [
        name
        for name, value in section("hyperparameters", cfg).items()
        if value is not None and name in getattr(given, "files", ()) and name not in given.line
        if name not in known or isinstance(value, tuple | dict) and not {*value} <= {*known}  # names of coefficients
    ]
    return cfg | dict.fromkeys(others), others


def train(cfg: dict, given: Collection[str] = ()) -> float | None:
    """One training run. cfg: all settings; given: names of those that were set rather than defaulted.

    Returns the last validation loss, or None if it was stopped before its end. Raises UserError on bad settings, before
    anything is written; Diverged if the loss is no longer finite; Finished if there is nothing left to resume.
    """
    with ExitStack() as at_end:
        at_end.enter_context(devices.report_out_of_memory())

        # settings: those given, less what this optimizer does not have where a config file is another's; a resumed
        # run's own, where init_from and overwrite, and what out_dir holds, say that it is one
        cfg, left_out = drop_foreign_settings(cfg, given)
        at_end.enter_context(checkpoints.hold(cfg["out_dir"]))
        checkpoint, resolved = checkpoints.start(cfg, given, SETTINGS)
        cfg = SimpleNamespace(**resolved)
        it = checkpoint["iter"] if checkpoint else 0
        if cfg.min_lr > cfg.learning_rate:
            raise UserError(f"min_lr={cfg.min_lr} is more than learning_rate={cfg.learning_rate}, the peak")
        if it >= cfg.max_iters:
            raise Finished(
                f"the run in {cfg.out_dir} has all its {it} steps; raise --max_iters to continue (which stretches the "
                "schedule, unless lr_decay_iters is set)"
            )

        # processes: the device of each, and its share of a batch
        processes = devices.Processes(cfg.device)
        ranks, rank, device, device_type = processes.ranks, processes.rank, processes.device, processes.device_type
        if cfg.shard and ranks == 1:
            raise UserError("shard=True splits the model over several processes: start them with torchrun")
        dtype, autocast = devices.resolve_dtype(cfg.dtype, device_type)
        torch.set_float32_matmul_precision("high")
        accumulation, micro = processes.share(cfg.batch_size, cfg.micro_batch_size)
        share = accumulation * micro * (cfg.block_size + 1)
        devices.check_memory(20 * share, f"batch_size={cfg.batch_size}: {share:,} tokens of this step and the next")
        at_end.enter_context(attention(device))

        # data
        train_data, val_data = splits(cfg.dataset, cfg.block_size, cfg.verify)
        meta = train_data.meta
        if checkpoint and checkpoint["data"].get("sha256") != meta.get("sha256"):
            raise UserError(
                f"dataset={cfg.dataset!r} is no longer what the run in {cfg.out_dir} learned from: prepare it as "
                "before, or name another --out_dir"
            )

        def batch(it):
            """This rank's part of step `it`: tokens and targets, each (accumulation, micro, block_size)."""
            starts = train_data.random_starts(cfg.seed, it, cfg.batch_size).reshape(accumulation, ranks, micro)[:, rank]
            x, y = train_data.windows(starts.reshape(-1))
            shape = (accumulation, micro, cfg.block_size)
            return processes.on_device(x.view(shape)), processes.on_device(y.view(shape))

        # model
        with checkpoints.fitting(checkpoint["path"]) if checkpoint else nullcontext():
            model = make_model(cfg, checkpoint, meta["vocab_size"], given).to(device)
        model.checkpoint_activations = cfg.checkpoint_activations
        if cfg.init_from not in ("scratch", "resume"):
            if tokens := pretrained_tokens(cfg.init_from):
                check_tokens(f"dataset={cfg.dataset!r}", meta, tokens)
            # the sizes come with the weights
            resolved |= dataclasses.asdict(model.config) | {"block_size": cfg.block_size}
        compiled, problem = devices.resolve_compile(cfg.compile, device)
        at_end.push(processes.leave)
        processes.join(cfg.timeout_minutes)
        if processes.most(it, -it) != [it, -it]:
            raise UserError("the processes do not start at the same step: out_dir must be one that all machines see")
        parallel = Parallel(model, processes, cfg.shard, compiled, dtype)

        # optimizer
        optimizer = make_optimizer(cfg, model)
        scaler = torch.amp.GradScaler(device_type, enabled=dtype == "float16")
        best, saved = math.inf, it
        if checkpoint:
            with checkpoints.fitting(checkpoint["path"]):
                load_optimizer(optimizer, checkpoint["optimizer"])
                if checkpoint["scaler"]:  # {} of a run in another dtype
                    scaler.load_state_dict(checkpoint["scaler"])
            best = checkpoint["best_val_loss"]

        # record: only now is anything written
        log, hardware = metrics.NullMetrics(), devices.hardware(device)
        parameters = sum(p.numel() for p in model.parameters())
        if processes.first:
            header = {
                "config": resolved,
                "seed": cfg.seed,
                **devices.here(device),
                "ranks": ranks,
                "dtype": dtype,
                "compile": compiled,
                "accumulation": accumulation,
                "parameters": parameters,
                "data": meta,
            }
            name = cfg.wandb_run_name or os.path.basename(os.path.normpath(cfg.out_dir))
            wandb = {"project": cfg.wandb_project, "name": name} if cfg.wandb_log else None
            trackers = metrics.trackers(cfg.out_dir, header, it, wandb, cfg.tensorboard_log)
            if not checkpoint:
                checkpoints.clear(cfg.out_dir)  # of a run that is overwritten
            log = metrics.Metrics(cfg.out_dir, header, it, cfg.max_iters, trackers)
            at_end.callback(log.close)
        if problem:
            log.say(f"without torch.compile, which does not work here: {problem}")
        if left_out:
            log.say(f"ignored config settings that {cfg.optimizer} does not have: {', '.join(left_out)}")
        log.say(f"{parameters:,} parameters, optimizer {cfg.optimizer}, on {ranks} x {hardware}, {dtype}")
        log.say(f"{cfg.dataset}: {meta['counts']['train']:,} + {meta['counts']['val']:,} tokens from {meta['source']}")
        log.say(
            f"each step: {accumulation} micro-steps x {ranks} processes x {micro} sequences of {cfg.block_size} tokens"
            f"; next checkpoint after step {min(cfg.max_iters, (it // cfg.eval_interval + 1) * cfg.eval_interval)}, "
            f"in {cfg.out_dir}"
        )
        if cfg.warmup_iters >= cfg.max_iters:
            log.say(f"all of this run is warm-up: its rate ends at {learning_rate_at(cfg.max_iters, cfg):.2g}")
        if checkpoint:
            before = checkpoint["config"]
            new = [name for name in given if not SETTINGS[name].once and resolved[name] != before.get(name)]
            changes = f", with {', '.join(f'{name}={resolved[name]!r}' for name in new)}" * bool(new)
            log.say(f"resuming after step {it:,} of {cfg.max_iters:,}, from {checkpoint['path']}{changes}")
            checkpoint = None  # or its tensors would stay in memory to the end
        peak = peak_flops(hardware)

        windows = len(val_data.spread_starts(cfg.eval_iters * cfg.batch_size))  # of the training split, too

        @torch.no_grad()
        def mean_loss(split):
            """Over the fixed windows of a split, which the ranks share; all call the model. Draws no random numbers."""
            starts = split.spread_starts(windows)
            model.eval()
            total = torch.zeros((), device=device)
            for i in range(0, len(starts), micro * ranks):
                mine = starts[i + rank * micro : i + (rank + 1) * micro]
                x, y = map(processes.on_device, split.windows(mine if len(mine) else starts[:1]))
                forward = parallel.evaluate if len(x) == micro else model  # compiled for one size only
                with autocast:
                    total += forward(x, y) * len(mine)
            model.train()
            return processes.mean(total) * ranks / len(starts)

        def save(is_best):
            """Start writing a checkpoint of whole tensors and plain containers. All ranks call it; returns the step."""
            writer.wait()  # one copy at a time
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "iter": it,
                "best_val_loss": best,
                "config": resolved,
                "data": meta,
                "model_config": dataclasses.asdict(model.config),
            }
            state = on_cpu(state, processes.first)
            log.sync()
            if processes.first:
                writer.save(state, cfg.out_dir, is_best)
            return it

        def diverged(what):
            writer.wait()
            good = f"in {cfg.out_dir}, of step {saved}" if saved else "none"
            return Diverged(
                f"the {what} is not finite at step {it}; the last good checkpoint is {good}; "
                "a lower learning_rate may help"
            )

        # beside the loop: signals, the writer of checkpoints, the reader of batches
        stop = at_end.enter_context(devices.stop_signals())
        writer = at_end.enter_context(checkpoints.Writer(log.say))
        loader = ThreadPoolExecutor(max_workers=1)
        at_end.callback(loader.shutdown, cancel_futures=True)
        coming = loader.submit(batch, it + 1)
        val_loss, timed_from = math.nan, None
        seconds, look_every = math.inf, 1  # of a step, once it is known; steps between looks at whether to stop
        bad_evaluations = 0  # in a row: the loss was not finite
        bad_streak = longest_streak = torch.zeros((), device=device)  # of steps, likewise: now, and since the last log
        model.train()
        if not gc.get_freeze_count():  # else the caller has done it
            gc.collect()
            gc.freeze()  # what exists by now stays: the collector need not walk through it again and again
            at_end.callback(gc.unfreeze)
        if it == 0:
            val_loss = mean_loss(val_data)
            log.write({"iter": 0, "val_loss": val_loss})

        # the loop
        while it < cfg.max_iters:
            it += 1
            x, y = coming.result()
            coming = loader.submit(batch, it + 1)  # read while the model computes
            lr = learning_rate_at(it, cfg)
            for group in optimizer.param_groups:
                group["lr"] = lr
            # dropout, like the batch, depends on the seed and the step; each rank draws its own, for its own sequences
            torch.manual_seed(int(np.random.SeedSequence((cfg.seed, it, rank)).generate_state(1)[0]))
            train_loss = torch.zeros((), device=device)
            with parallel.step():
                for i in range(accumulation):
                    with parallel.micro_step(last=i == accumulation - 1):
                        with autocast:
                            loss = parallel.train(x[i], y[i]) / accumulation
                        scaler.scale(loss).backward()
                    train_loss += loss.detach()
            scaler.unscale_(optimizer)
            optimizer.step()  # not scaler.step: it skips and counts what is not finite by itself
            scaler.update()
            optimizer.zero_grad()
            bad_streak = (bad_streak + 1) * ~(train_loss.isfinite() & optimizer.grad_norm.isfinite())
            longest_streak = torch.maximum(longest_streak, bad_streak)

            # what the step was, now and then
            done = it == cfg.max_iters
            evaluating = done or it % cfg.eval_interval == 0
            logging = evaluating or it == 1 or it % cfg.log_interval == 0
            stopping = stop.is_set() or processes.orphaned()
            if cfg.check_interval and it % cfg.check_interval == 0:
                coefficients = [group["coefficients"] for group in optimizer.param_groups if "coefficients" in group]
                processes.check_equal([*model.parameters(), *coefficients])
            writer.check()
            if logging:
                record = {
                    "iter": it,
                    "train_loss": processes.mean(train_loss),
                    "lr": lr,
                    "grad_norm": float(optimizer.grad_norm),
                }
                if timed_from is not None:  # the first step, which compiles and allocates, is not timed
                    seconds = (time.perf_counter() - timed_from[1]) / (it - timed_from[0])
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
                stopping, worst_streak, slowest = processes.most(stopping, longest_streak, seconds)
                look_every = max(1, int(STOP_WITHIN / slowest))
                log.write(record)
                longest_streak = bad_streak
                timed_from = it, time.perf_counter()
            elif ranks > 1:  # a rank must not stop alone
                stopping = it % look_every == 0 and processes.most(stopping)[0]

            # what is worth keeping, and when to end
            if logging and worst_streak >= cfg.max_bad_steps:
                raise diverged(f"loss or its gradient, for {worst_streak:.0f} steps in a row,")
            if done and not math.isfinite(record["train_loss"]):
                raise diverged("loss")
            if evaluating and math.isfinite(val_loss):
                bad_evaluations, is_best, best = 0, val_loss < best, min(best, val_loss)
                saved = save(is_best)
            elif evaluating:
                bad_evaluations += 1
                if bad_evaluations == 2 or done:
                    raise diverged("validation loss")
                log.say(f"step {it}: the validation loss is {val_loss}: no checkpoint is written")
            elif stopping and not bad_evaluations:
                ended_at = record["train_loss"] if logging else processes.mean(train_loss)  # no rank saves alone
                saved = save(False) if math.isfinite(ended_at) else saved
            if stopping and not done:
                log.say(f"stopped after step {it}; resume with --init_from=auto --out_dir={cfg.out_dir}")
                return None
    return val_loss


if __name__ == "__main__":
    settings.main(train, __file__)
