"""What an optimizer step costs: time against fused AdamW in the same run, state, peak extra memory, and a lower bound.

    python scripts/bench_optim.py --shapes 11M                           # the tensors of the Shakespeare GPT
    python scripts/bench_optim.py --shapes 124M --device cuda --out results/bench/h100-124M
    python scripts/bench_optim.py --shapes 10600000 --only "mada;lion"   # one flat tensor of this many elements
    python scripts/bench_optim.py --shapes 2000x2                        # many small tensors: Python's share of a step

The optimizers take turns, so that a noisy machine is noisy for all of them. The floor is the time in which a copy moves
the bytes that one pass over gradient, parameter and state must move: gradient read, the others read and written.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
import optim
from data.prepared import writing
from devices import hardware
from model import GPT, GPTConfig
from reproduce import drawing
from reproduce.gpu import FIVE
from settings import UserError, one_line_errors

SHAPES = {
    "0.8M": (4, 4, 128, 128, 65),
    "11M": (6, 6, 384, 256, 65),
    "124M": (12, 12, 768, 1024, 50304),
    "355M": (24, 16, 1024, 1024, 50304),
    "1.5B": (48, 25, 1600, 1024, 50304),
}  # layers, heads, width, context, vocabulary
INTERIOR = {"beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.5}
VARIANTS = {  # first the one that the others are compared with
    "adamw": ("adam", {}),
    "adamw, bare": (torch.optim.AdamW, {"fused": True}),  # without the gradient's norm
    "adamw, foreach": (torch.optim.AdamW, {"foreach": True}),
    "mada": ("mada", {}),
    "mada, without lion": ("mada", {"learn": FIVE}),
    "mada, bfloat16 state": ("mada", {"state_dtype": "bfloat16"}),
    "mada, adam's corner fixed": ("mada", {"learn": ()}),
    "mada, interior fixed": ("mada", dict(learn=(), **INTERIOR)),
    "hyperadam": ("hyperadam", {}),
    "avgrad": ("avgrad", {}),
    "yogi": ("yogi", {}),
    "adan": ("adan", {}),
    "lion": ("lion", {}),
    "muon": ("muon", {}),  # torch's, AdamW for the rest
    "mada, from muon's corner": ("mada", {"mu": 1.0, "learn": ("beta1", "beta2", "mu")}),
}
MUON = ("muon", "mada, from muon's corner")  # only of tensors that have hidden matrices among them


def parameters(shapes, device):
    """Tensors of a GPT's shapes, or flat ones, with gradients; and those of them that are hidden matrices."""
    hidden = []
    if shapes in SHAPES:
        n_layer, n_head, n_embd, block_size, vocab_size = SHAPES[shapes]
        with torch.device("meta"):
            model = GPT(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd, bias=False))
        sizes, inside = [p.shape for p in model.parameters()], set(optim.hidden_matrices(model))
        hidden = [i for i, p in enumerate(model.parameters()) if p in inside]
    elif numbers := re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", shapes):
        sizes = [(int(numbers[2]),)] * int(numbers[1] or 1)
    else:
        raise UserError(f"--shapes {shapes}: must be elements, tensors x elements, or one of {', '.join(SHAPES)}")
    params = [torch.nn.Parameter(0.02 * torch.randn(size, device=device)) for size in sizes]
    for p in params:
        p.grad = 0.01 * torch.randn_like(p)
    return params, [params[i] for i in hidden]


def timed(run, device):
    """Seconds that run() takes, including the device's work, and CPU seconds, which exclude waiting for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start, cpu = time.perf_counter(), time.process_time()
    run()
    cpu = time.process_time() - cpu
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, cpu


def extra_memory(run, device):
    """MB that run() needs temporarily, beyond those in use before; None if the system cannot say."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    except OSError:
        return None
    run()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (int(status["VmHWM"].split()[0]) - int(status["VmRSS"].split()[0])) / 1024  # /proc has KiB


def bandwidth(device):
    """Bytes per second that a copy reads and writes."""
    a = torch.ones(2**26, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * a.nbytes / statistics.median(timed(lambda: b.copy_(a), device)[0] for _ in range(10))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", default="11M", help=f"{', '.join(SHAPES)}, or a number of elements in one flat tensor"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--only", help=f"some of: {'; '.join(VARIANTS)} (separated by ;)")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each optimizer")
    parser.add_argument("--out", help="folder for bench.json and bench.png")
    args = parser.parse_args()
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    names = list(VARIANTS) if not args.only else ["adamw", *filter(lambda x: x != "adamw", args.only.split(";"))]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise UserError(f"--only {unknown[0]}: must be some of {'; '.join(VARIANTS)}")

    if args.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {args.device}: there is no GPU here")
        torch.cuda.set_device(torch.device(args.device).index or 0)
    elif args.device != "cpu":
        raise UserError(f"--device {args.device}: must be cpu, cuda or cuda:N")
    if args.out:
        with writing(Path(args.out)):
            os.makedirs(args.out, exist_ok=True)
    params, hidden = parameters(args.shapes, args.device)
    names = [name for name in names if hidden or name not in MUON]
    elements = sum(p.numel() for p in params)
    speed = bandwidth(args.device)
    optimizers, rows = {}, []
    for name in names:
        kind, settings = VARIANTS[name]
        make = kind if callable(kind) else partial(optim.build, kind, hidden=hidden)
        optimizers[name] = make(params, lr=1e-6, **settings)
        for _ in range(3):
            optimizers[name].step()  # allocate, trace, compile
    times = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, optimizer in optimizers.items():
            times[name].append(timed(optimizer.step, args.device))
    for name, optimizer in optimizers.items():
        state = sum(x.nbytes for entry in optimizer.state.values() for x in entry.values() if x.dim())
        seconds, cpu = zip(*times[name], strict=True)
        ms = 1e3 * statistics.median(seconds)
        rows.append(
            {
                "name": name,
                "ms": ms,
                "min_ms": 1e3 * min(seconds),
                "max_ms": 1e3 * max(seconds),
                "cpu_ms": 1e3 * statistics.median(cpu),
                "ratio": statistics.median(a / b for (a, _), (b, _) in zip(times[name], times[names[0]], strict=True)),
                "state_bytes_per_parameter": state / elements,
                "extra_mb": extra_memory(optimizer.step, args.device),
                "floor_ms": 1e3 * (3 * 4 * elements + 2 * state) / speed,
            }
        )

    device = hardware(args.device) + (f", {torch.get_num_threads()} threads" if args.device == "cpu" else "")
    title = f"{elements / 1e6:.1f}M parameters in {len(params)} tensors, float32, {device}, {speed / 1e9:.0f} GB/s copy"
    print(title + f", torch {torch.__version__}, median of {args.rounds}\n")
    print(
        f"{'optimizer':28s}{'ms/step':>9s}{'CPU ms':>9s}{'x adamw':>9s}"
        f"{'state B/param':>15s}{'extra MB':>10s}{'floor ms':>10s}{'x floor':>9s}"
    )
    for row in rows:
        extra = "" if row["extra_mb"] is None else f"{row['extra_mb']:.0f}"
        print(
            f"{row['name']:28s}{row['ms']:9.2f}{row['cpu_ms']:9.2f}{row['ratio']:9.2f}"
            f"{row['state_bytes_per_parameter']:15.1f}{extra:>10s}{row['floor_ms']:10.2f}"
            f"{row['ms'] / row['floor_ms']:9.2f}"
        )
    if args.out:
        with open(os.path.join(args.out, "bench.json"), "w") as file:
            json.dump(
                {
                    "command": " ".join(["python", *sys.argv]),
                    "title": title,
                    "torch": torch.__version__,
                    "rounds": args.rounds,
                    "git": metrics.git_revision(),
                    "copy_bytes_per_s": speed,
                    "rows": rows,
                },
                file,
                indent=1,
            )
        drawing.costs(rows, title, os.path.join(args.out, "bench.png"))


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
