"""Everything that only a GPU can show, next to what was predicted without one: results/gpu/report.md and report.json.

    make gpu-report                                      # on a machine with a GPU: about half an hour
    python scripts/gpu_report.py --rehearse              # the same parts on a CPU, tiny; the numbers mean nothing
    python scripts/gpu_report.py --only "correct|waits"  # some of the parts

Each part is a process of its own, so that one that fails, or takes too long, costs no other. Without a GPU, this prints
the predictions (reproduce/gpu.py) and ends with status 2.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import metrics
import optim
from devices import hardware
from model import peak_flops
from optim.reference import PlainMADA
from reproduce import gpu
from reproduce.pool import load
from settings import UserError, one_line_errors, pattern

XL = ["--n_layer=48", "--n_head=25", "--n_embd=1600", "--batch_size=4", "--micro_batch_size=4", "--max_iters=6"]
XL += ["--checkpoint_activations=True"]
TINY = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=16", "--batch_size=2", "--micro_batch_size=1"]
TINY += ["--max_iters=5", "--eval_interval=5", "--device=cpu"]
# The parts: each yields (measurement, value). device: "cuda", or "cpu" in a rehearsal.


def correct(device: str) -> Iterator[tuple[str, float]]:
    """The fast path in each dtype against the plain algorithm in float64, on the same gradients.

    The root mean square of the difference, relative to that of the distance that the parameters have moved.
    """
    shapes = [(3,), (257, 129), (2**17 + 1,)] if device == "cuda" else [(3,), (40, 33)]
    for dtype in (getattr(torch, name) for name in gpu.ERRORS):
        make = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=make).to(dtype) for shape in shapes]
        fast = [x.to(device, copy=True).requires_grad_() for x in start]
        plain = [x.double().requires_grad_() for x in start]
        ours, theirs = optim.MADA(fast, lr=0.02, max_grad_norm=1e3), PlainMADA(plain, 0.02, max_grad_norm=1e3)
        for _ in range(10):
            for p, q in zip(fast, plain, strict=True):
                grad = torch.randn(p.shape, generator=make).to(dtype)
                p.grad, q.grad = grad.to(device), grad.double()
            ours.step(), theirs.step()
        apart = torch.cat(
            [(p.detach().cpu().double() - q.detach()).flatten() for p, q in zip(fast, plain, strict=True)]
        )
        gone = torch.cat([(q.detach() - x.double()).flatten() for q, x in zip(plain, start, strict=True)])
        yield f"{str(dtype).removeprefix('torch.')}: error of 10 steps", (apart.norm() / gone.norm()).item()


def waits(device: str) -> Iterator[tuple[str, float]]:
    """The number of optimizers whose step() waits for the device, with a new learning rate and gradients each time."""
    found = []
    forms = ({}, {"hyper_scale": "raw"}, {"state_dtype": "bfloat16"}, {"learn": ("beta1", "gamma")}, {"grow_lr": True})
    for name in set(optim.OPTIMIZERS) - {"muon", "sgd"}:  # torch's, which do
        for settings in forms if name == "mada" else ({},):
            params = [torch.randn(64, 64, device=device, requires_grad=True) for _ in range(3)]
            optimizer = optim.build(name, params, lr=1e-3, max_grad_norm=1.0, **settings)
            for step in range(8):
                for p in params:
                    p.grad = torch.randn_like(p)
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 / (step + 1)
                if device == "cuda" and step >= 3:
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    optimizer.step()
                except RuntimeError as error:
                    found.append(f"{name} {settings}: {error}")
                    break
                finally:
                    if device == "cuda":
                        torch.cuda.set_sync_debug_mode("default")
    print("\n".join(found), file=sys.stderr)
    yield "optimizers whose step waits", len(found)


def bench(device: str, shapes: str, rows: str) -> dict:
    """{row: its record} of bench_optim. Raises UserError with its last line if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        options = "--shapes", shapes, "--device", device, "--only", rows, "--out", folder
        command = [sys.executable, ROOT / "scripts" / "bench_optim.py", *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise UserError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
        return {row["name"]: row for row in json.loads(Path(folder, "bench.json").read_text())["rows"]}


def steps(device: str, size: str) -> Iterator[tuple[str, float]]:
    """bench_optim; of the largest model, one optimizer at a time next to AdamW, since their states fill the card."""
    others = [row for row in gpu.BENCHED if row != "adamw"]
    for some in [[row] for row in others] if size == "1.5B" else [others]:
        found = bench(device, size if device == "cuda" else "1000", ";".join(some))
        for row in ["adamw"] * (some[0] == others[0]) + some:
            yield f"{size}, {row}: ms", found[row]["ms"]


def host(device: str) -> Iterator[tuple[str, float]]:
    """CPU time of steps on many small tensors, against AdamW(foreach=True)."""
    for tensors in (148, 2000):
        found = bench(device, f"{tensors if device == 'cuda' else 5}x2", "adamw, foreach;mada")
        yield (
            f"{tensors} tensors, mada: CPU time, x foreach",
            found["mada"]["cpu_ms"] / found["adamw, foreach"]["cpu_ms"],
        )


def noise(folder: str) -> str:
    """A data set of random tokens, which cost what any others do, as an argument of train.py."""
    for split in ("train", "val"):
        np.random.default_rng(0).integers(50257, size=2**20, dtype=np.uint16).tofile(Path(folder, f"{split}.bin"))
    meta = {"counts": {"train": 2**20, "val": 2**20}, "dtype": "uint16", "vocab_size": 50257, "tokenizer": "gpt2"}
    Path(folder, "meta.json").write_text(json.dumps(meta | {"source": "random numbers", "sha256": {}}))
    return f"--dataset={folder}"


def measured(device: str, *arguments: str) -> dict:
    """What scripts/measure.py says of a training run."""
    with tempfile.TemporaryDirectory() as folder:
        more = (noise(folder), *(TINY if device == "cpu" else ()))
        settings = arguments[0], "config/scale_profile_gpu.py", *arguments[1:], *more
        return load(str(ROOT / "scripts" / "measure.py")).measure(settings, folder=ROOT)


def iterations(device: str) -> Iterator[tuple[str, float]]:
    """Whole iterations of GPT-2 124M, by train.py."""
    base, peak = None, peak_flops(hardware(device))
    for row, arguments in gpu.RUNS.items():
        found = measured(device, *arguments)
        base = base or found
        yield f"iteration, {row}: ms", 1e3 * found["seconds"]
        yield f"iteration, {row}: GB", found["peak_gb"]
        if peak:
            yield f"iteration, {row}: MFU", gpu.work() / found["seconds"] / peak
        if row != "adamw":
            yield f"iteration, {row}: time, x adamw", found["seconds"] / base["seconds"]
            yield f"iteration, {row}: memory, x adamw", found["peak_gb"] / base["peak_gb"]


def xl(device: str) -> Iterator[tuple[str, float]]:
    """GPT-2 XL's sizes under MADA on one card, with activations recomputed in the backward pass."""
    yield "XL with mada on one card: GB", measured(device, "config/train_gpt2_mada.py", *XL)["peak_gb"]


PARTS = {  # the most important first; seconds that each may take
    "correct": (correct, (), 300),
    "waits": (waits, (), 300),
    **{f"steps {size}": (steps, (size,), 600) for size in gpu.LAYERS_WIDTH},
    "host": (host, (), 300),
    "iterations": (iterations, (), 1500),
    "xl": (xl, (), 900),
}


def run_apart(part: str, rehearse: bool) -> tuple[dict[str, float], str | None]:
    """A part in its own process -> {measurement: value}, and why it did not end, or None."""
    command = [sys.executable, __file__, "--part", part, *["--rehearse"] * rehearse]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        with subprocess.Popen(command, stdout=said, stderr=complained, start_new_session=True) as process:
            try:
                status = process.wait(PARTS[part][2])
                error = f"status {status}" if status else None
            except subprocess.TimeoutExpired:
                error = f"not done in {PARTS[part][2]} s"
            finally:  # what it has started would stay on the GPU
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        said.seek(0), complained.seek(0)
        if error and (words := complained.read().strip()):
            error += ": " + words.splitlines()[-1]
        return dict(json.loads(line) for line in said if line.startswith("[")), error


def write(out: Path, card: str, found: dict, errors: dict, rehearse: bool) -> None:
    """report.json and report.md in the folder `out`."""
    expected = gpu.predictions(card)
    title = f"# Measured on {card}, next to what was predicted without a GPU"
    if rehearse:
        title = "# A rehearsal on a CPU: the numbers mean nothing"
        expected = {name: row._replace(goal=None) for name, row in expected.items()}
    about = {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "git": metrics.git_revision()}
    rows = {name: row._asdict() | {"measured": found.get(name)} for name, row in expected.items()}
    (out / "report.json").write_text(json.dumps(about | {"errors": errors, "rows": rows}, indent=1))
    failed = [f"- {part} did not end: {why}" for part, why in errors.items()]
    versions = f"torch {about['torch']}, CUDA {about['cuda']}, commit {about['git']}"
    page = [title, versions, gpu.table(found, expected), "\n".join(failed)]
    (out / "report.md").write_text("\n\n".join(filter(None, page)) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, tiny: shows that the parts run")
    parser.add_argument("--only", default="", help=f"a regular expression for some of {', '.join(PARTS)}")
    parser.add_argument(
        "--out", help="folder of report.md and report.json; default: results/gpu, of a rehearsal out/gpu"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what run_apart calls
    args = parser.parse_args()
    device, only = "cpu" if args.rehearse else "cuda", pattern("--only", args.only)
    if args.part:
        function, arguments, _ = PARTS[args.part]
        for pair in function(device, *arguments):
            print(json.dumps(pair), flush=True)
        return
    if device == "cuda" and not torch.cuda.is_available():
        print(gpu.PREDICTED + gpu.table({}, gpu.predictions("H100")), flush=True)
        raise UserError(
            "there is no GPU here: these are the predictions for an H100 (--rehearse tries the parts on a CPU)"
        )
    if not (parts := [part for part in PARTS if only.search(part)]):
        raise UserError(f"--only {args.only}: must find some of {', '.join(PARTS)}")
    card, found, errors = hardware(device), {}, {}
    out = Path(args.out or ROOT / ("out/gpu" if args.rehearse else "results/gpu"))
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        measured, error = run_apart(part, args.rehearse)
        found |= measured
        errors |= {part: error} if error else {}
        print(f"{part}: {error or 'done'}", flush=True)
        write(out, card, found, errors, args.rehearse)  # after each, so that a lost machine does not lose them all
    print("\n" + (out / "report.md").read_text())
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
