"""Train every cell of a grid over any settings of train.py, once each, by any number of workers, whatever dies meanwhile.

    python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py               # Figure 8, reduced; again: what is missing
    python scripts/sweep.py config/sweep_shakespeare_betas.py --workers 16      # several per GPU; default: one
    python scripts/sweep.py config/sweep_shakespeare_betas.py --dry_run         # list the cells and the time they take
    python scripts/sweep.py config/sweep_shakespeare_betas.py --shard 3/8       # one of 8 jobs: see sweep.sbatch
    python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py --max_iters=100 --out out/quick    # settings of all cells

A sweep file is plain Python: `base`, a config file; settings as in one, where a list spans an axis of the grid; or instead
of lists a function `cells()` that yields dicts of settings. `seconds` may say what a cell takes. Names with _ are its own.
Each cell is a folder of OUT. Beside them come summary.csv and contours.png, which are made from the cells' metrics alone.
"""

import argparse
import csv
import itertools
import math
import os
import sys
from pathlib import Path
from statistics import mean, median

import matplotlib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from plot import SYMBOLS, plt

import metrics
from runs import Board, run
from settings import UserError, one_line_errors
from workers import default_workers, execute

CORNER = {
    "beta1": math.nan,
    "beta2": math.nan,
    "beta3": 0.0,
    "rho": 1.0,
    "c": 1.0,
    "gamma": 1.0,
}  # Adam's, where not set
COLUMNS = ["optimizer", *[f"{name}_0" for name in CORNER], "final_train_loss", "final_val_loss"]


def cells(path, arguments):
    """The Runs of a sweep file; arguments: --name=value for all of them. Raises UserError."""
    names = {}
    try:
        exec(compile(Path(path).read_text(), path, "exec"), names)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such sweep file") from None
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    settings = {
        name: value for name, value in names.items() if not name.startswith("_") and not hasattr(value, "__spec__")
    }
    base, function, seconds = (settings.pop(name, None) for name in ("base", "cells", "seconds"))
    if function is None:
        axes = {name: value for name, value in settings.items() if isinstance(value, list)}
        grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        settings = {name: value for name, value in settings.items() if name not in axes}
    else:
        try:
            grid = [dict(cell) for cell in function()]
        except Exception as error:
            raise UserError(f"{path}: cells(): {type(error).__name__}: {error}") from error
    if not grid:
        raise UserError(f"{path}: there is no cell in it")
    if any(not argument.startswith("--") for argument in arguments):
        raise UserError(f"{' '.join(arguments)}: one sweep file, then --name=value for all cells")
    base = [os.path.join(ROOT, base)] if base else []
    try:
        over = run("train.py", *arguments).given
        found = {each.id: each for each in (run("train.py", *base, **settings | cell | over) for cell in grid)}
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('run: ')}") from None
    return list(found.values()), seconds


def varied(runs):
    """Names of the settings that differ between runs of the same optimizer."""
    return [
        name
        for name in runs[0].cfg
        if len({(each.cfg["optimizer"], repr(each.cfg[name])) for each in runs})
        > len({each.cfg["optimizer"] for each in runs})
    ]


def rows(runs, folder):
    """What summary.csv says of each run that has ended, from its metrics alone. A diverged run's losses are NaN."""
    others = [name for name in varied(runs) if name not in CORNER]
    for each in runs:
        try:
            cfg, last = each.cfg, metrics.read(os.path.join(folder, each.id))[1][-1]
        except (OSError, ValueError, IndexError):
            continue
        diverged = not math.isfinite(last.get("train_loss", 0) + last.get("val_loss", 0))
        if last["iter"] < cfg["max_iters"] and not diverged:
            continue
        losses = (
            (math.nan, math.nan) if diverged else (last.get("eval_train_loss", last["train_loss"]), last["val_loss"])
        )
        start = [value if cfg[name] is None else cfg[name] for name, value in CORNER.items()]
        yield dict(zip(COLUMNS, (cfg["optimizer"], *start, *losses), strict=True)) | {
            name: cfg[name] for name in others
        }


def write(table, path):
    """summary.csv in the columns of the authors' file, and after them whatever else was varied."""
    with open(f"{path}.{os.getpid()}.part", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table[0])
        writer.writerows(
            [f"{value:.6f}" if isinstance(value, float) else value for value in row.values()] for row in table
        )
    os.replace(file.name, path)


def read(path):
    """What `write` wrote, or the authors' file."""
    try:
        with open(path, newline="") as file:
            return [row | {name: float(row[name]) for name in COLUMNS[1:]} for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a table of columns {', '.join(COLUMNS)}: {error}") from None


def draw(table, path, title="", x="beta1", y="beta2"):
    """Figure 8: final training loss over two initial coefficients, an optimizer each panel, one colour scale.

    Dots are cells, crosses those that diverged; cells of the same coordinates (seeds) are averaged.
    """
    optimizers = list(dict.fromkeys(row["optimizer"] for row in table))
    finite = sorted(row["final_train_loss"] for row in table if math.isfinite(row["final_train_loss"]))
    low, high = (
        (finite[0], finite[int(0.9 * (len(finite) - 1))]) if finite else (0, 1)
    )  # the worst tenth has one colour
    scale = matplotlib.colors.Normalize(low, max(high, low + 1e-6))
    fig, axes = plt.subplots(
        1, len(optimizers), figsize=(1 + 3.6 * len(optimizers), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, optimizer in zip(axes[0], optimizers, strict=True):
        points = {}
        for row in table:
            if row["optimizer"] == optimizer:
                points.setdefault((row[f"{x}_0"], row[f"{y}_0"]), []).append(row["final_train_loss"])
        points = {at: mean(losses) for at, losses in points.items()}
        good = [(*at, loss) for at, loss in points.items() if math.isfinite(loss)]
        if all(len({point[i] for point in good}) > 1 for i in (0, 1)) and len(good) > 3:
            ax.tricontourf(*zip(*good, strict=True), np.linspace(scale.vmin, scale.vmax, 13), norm=scale, extend="max")
        for at, loss in points.items():
            mark, size = ("k.", 2) if math.isfinite(loss) else ("rx", 7)
            ax.plot(*at, mark, ms=size, clip_on=False)
        ax.set_title(optimizer)
        ax.set_xlabel(f"initial {SYMBOLS[x]}")
    axes[0, 0].set_ylabel(f"initial {SYMBOLS[y]}")
    fig.colorbar(
        matplotlib.cm.ScalarMappable(scale), ax=axes, extend="max", label="final training loss (nats per token)"
    )
    fig.suptitle(title, fontsize=10)
    fig.savefig(f"{path}.{os.getpid()}.part", dpi=150, format="png")
    plt.close(fig)
    os.replace(f"{path}.{os.getpid()}.part", path)


def report(table, under):
    """The best cell, and each optimizer's share of cells under a loss: by default under the median of all."""
    finite = [row for row in table if math.isfinite(row["final_train_loss"])]
    if not finite:
        return print("no cell has a finite loss")
    under = median(row["final_train_loss"] for row in finite) if under is None else under
    best = min(finite, key=lambda row: row["final_train_loss"])
    print(
        "best cell:",
        ", ".join(
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in best.items()
        ),
    )
    for optimizer in dict.fromkeys(row["optimizer"] for row in table):
        losses = [row["final_train_loss"] for row in table if row["optimizer"] == optimizer]
        diverged = sum(not math.isfinite(loss) for loss in losses)
        middle = median(loss if math.isfinite(loss) else math.inf for loss in losses)
        print(
            f"{optimizer:10s} {sum(loss < under for loss in losses) / len(losses):6.1%} of {len(losses)} cells under "
            f"{under:.4f}; {diverged} diverged; median {middle:.4f}"
        )


def compare(table, theirs):
    """Ours minus theirs, cell by cell, where a cell is in both."""

    def key(row):
        return row["optimizer"], *[round(row[name], 6) for name in COLUMNS[1:7]]

    known, both = {key(row): row for row in theirs}, {}
    for row in table:
        if other := known.get(key(row)):
            pairs = [(row[name], other[name]) for name in COLUMNS[7:]]
            both.setdefault(row["optimizer"], []).append([ours - their for ours, their in pairs])
            print(
                f"{row['optimizer']:10s} beta1 {row['beta1_0']:.4f} beta2 {row['beta2_0']:.4f}"
                + "".join(
                    f"   {name} {ours:.4f} - {their:.4f} = {ours - their:+.4f}"
                    for name, (ours, their) in zip(("train", "val"), pairs, strict=True)
                )
            )
    for optimizer, differences in both.items():
        train, val = ([d for d in column if math.isfinite(d)] for column in zip(*differences, strict=True))
        if train:
            print(
                f"{optimizer:10s} ours minus theirs over {len(train)} cells: train mean {mean(train):+.4f}, largest "
                f"{max(train, key=abs):+.4f}; val mean {mean(val):+.4f}, largest {max(val, key=abs):+.4f}"
            )
    if not both:
        print("no cell is in both tables")


def shard(text):
    i, n = (int(part) for part in text.split("/"))
    if not 1 <= i <= n:
        raise ValueError
    return i, n


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sweep", help="the sweep file")
    parser.add_argument("--out", help="folder of the cells; default: out/ and the name of the sweep file")
    parser.add_argument("--workers", type=int, help="processes; default: one per GPU, or per core without; 0: this one")
    parser.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="i/n", help="only the i-th of n parts, i = 1 ... n"
    )
    parser.add_argument("--dry_run", action="store_true", help="list the cells, their states and the estimated time")
    parser.add_argument("--retry_failed", action="store_true", help="run again what has failed")
    parser.add_argument(
        "--under", type=float, help="count the cells under this training loss; default: under the median"
    )
    parser.add_argument("--compare", metavar="CSV", help="print ours minus theirs for the cells of such a table")
    args, arguments = parser.parse_known_args()
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers} must not be negative")
    runs, seconds = cells(args.sweep, arguments)
    theirs = read(args.compare) if args.compare else None  # before hours of work
    out, axes = args.out or os.path.join("out", Path(args.sweep).stem), varied(runs)
    names = {
        each.id: "  ".join([each.cfg["optimizer"], *[f"{name}={each.cfg[name]!r}" for name in axes]]) for each in runs
    }
    if args.dry_run:
        part = runs[args.shard[0] - 1 :: args.shard[1]]
        found = [Board(out).look(each) for each in part]
        for each, state in zip(part, found, strict=True):
            print(f"{each.id}  {state['state']:8s}{names[each.id]}")
        known = [state["seconds"] for state in found if state["state"] == "done"]
        left, count = (
            sum(state["state"] in ("pending", "running") for state in found),
            args.workers or default_workers(part),
        )
        each = median(known) if known else seconds
        print(
            f"{len(part)} cells, {left} to do: "
            + (
                f"about {left * each / count / 60:.0f} min with {count} workers at {each:.1f} s a cell "
                f"({'measured here' if known else 'says the sweep file'})"
                if each
                else "no cell has been timed yet"
            )
        )
        return
    states = execute(runs, out, args.workers, args.retry_failed, args.shard, keep_checkpoints=False)
    failed = {key: state for key, state in states.items() if state["state"] == "failed"}
    table = list(rows(runs, out))
    if table:
        write(table, os.path.join(out, "summary.csv"))
        print(os.path.join(out, "summary.csv"), f"has {len(table)} of {len(runs)} cells")
        if {"beta1", "beta2"} <= {*axes}:
            draw(
                table, os.path.join(out, "contours.png"), f"{runs[0].cfg['dataset']}, {runs[0].cfg['max_iters']} steps"
            )
            print(os.path.join(out, "contours.png"))
        report(table, args.under)
        if theirs:
            compare(table, theirs)
    for key, state in failed.items():
        print(
            f"failed: {names[key]}: {state['error'].strip().splitlines()[-1]} ({os.path.join(out, key)})",
            file=sys.stderr,
        )
    if failed:
        raise UserError(f"{len(failed)} of {len(states)} runs failed; --retry_failed runs them again")


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
