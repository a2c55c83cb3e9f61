"""A grid over any settings of train.py: its cells, what they ended with, and the shares of Figure 8.

A sweep file is plain Python: `base`, a config file; settings as in a config file, where a list spans an axis of the
grid; or, instead of lists, a function `cells()` that yields dicts of settings. `seconds` may say how long a cell takes.
Names that begin with _ are its own.
"""

import csv
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import metrics
from reproduce import pool
from reproduce.runs import Run, run
from settings import UserError

ADAM = {"beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}  # its corner of MADA, where a run that sets nothing starts
CORNER = {"beta1": math.nan, "beta2": math.nan} | ADAM
LOSSES = ("final_train_loss", "final_val_loss")
COLUMNS = ["optimizer", *[f"{name}_0" for name in CORNER], *LOSSES]


def panels_of(tables: list[list[dict]]) -> dict:
    """What drawing.grid draws of tables: a panel per loss."""
    return {loss.removeprefix("final_").replace("_", " "): panels(tables, loss) for loss in LOSSES}


def cells(path: str, arguments: list[str]) -> tuple[list[Run], float | None]:
    """The runs of a sweep file, and the seconds that it says each takes.

    arguments: --name=value for all of them. Raises UserError.
    """
    names = {}
    try:
        exec(compile(Path(path).read_text(), path, "exec"), names)  # noqa: S102 - a sweep file is Python
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such sweep file") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    own = [name for name, value in names.items() if name.startswith("_") or hasattr(value, "__spec__")]
    settings = {name: value for name, value in names.items() if name not in own}
    base, function, seconds = (settings.pop(name, None) for name in ("base", "cells", "seconds"))
    if not isinstance(base, str | None) or not isinstance(seconds, int | float | None):
        raise UserError(f"{path}: base={base!r} must be a config file, and seconds={seconds!r} a number")
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
    try:
        over = run("train.py", *arguments).given
        shared = run("train.py", *([base] if base else []), **settings)
        found = {each.id: each for each in (shared.but(**cell | over) for cell in grid)}
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('run: ')}") from None
    return list(found.values()), seconds


def varied(runs: list[Run]) -> list[str]:
    """The names of settings that differ between runs of the same optimizer."""
    first, found = {}, set()
    for each in runs:
        same = first.setdefault(each.cfg["optimizer"], each).cfg
        found |= {name for name, value in each.cfg.items() if value != same[name]}
    return [name for name in runs[0].cfg if name in found]


def rows(runs: list[Run], folder: str) -> Iterator[dict]:
    """What summary.csv says of each run that has ended. A diverged run's losses are NaN."""
    others = [name for name in varied(runs) if name not in CORNER]
    for each in runs:
        try:
            cfg, last = each.cfg, metrics.read(os.path.join(folder, each.id))[1][-1]
        except (OSError, ValueError, IndexError):
            continue
        total = last.get("train_loss", 0) + last.get("val_loss", 0)
        diverged = pool.look(each, folder).get("diverged", False) or not math.isfinite(total)
        if last["iter"] < cfg["max_iters"] and not diverged:
            continue
        losses = [math.nan] * 2
        if not diverged:
            losses = last.get("eval_train_loss", last["train_loss"]), last["val_loss"]
        start = [value if cfg[name] is None else cfg[name] for name, value in CORNER.items()]
        named = zip(COLUMNS, (cfg["optimizer"], *start, *losses), strict=True)
        yield dict(named) | {name: cfg[name] for name in others}


def write(table: list[dict], path: str | Path):
    """summary.csv in the columns of the authors' file, followed by whatever else was varied."""

    def written(name, value):
        return f"{value:.6f}" if isinstance(value, float) and name in COLUMNS else value

    with open(f"{path}.{os.getpid()}.part", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table[0])
        writer.writerows([written(*item) for item in row.items()] for row in table)
    os.replace(file.name, path)


def read(path: str | Path) -> list[dict]:
    """What `write` wrote, or the authors' file. Raises UserError."""
    try:
        with open(path, newline="") as file:
            return [row | {name: float(row[name]) for name in COLUMNS[1:]} for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a table of columns {', '.join(COLUMNS)}: {error}") from None


def panels(tables: list[list[dict]], loss: str) -> dict[str, dict]:
    """{optimizer: {initial (beta1, beta2): mean loss over the tables (seeds); NaN where one diverged}}."""
    found = {}
    for row in itertools.chain(*tables):
        found.setdefault(row["optimizer"], {}).setdefault((row["beta1_0"], row["beta2_0"]), []).append(row[loss])
    return {name: {at: mean(losses) for at, losses in points.items()} for name, points in found.items()}


def shares(table: list[dict], loss: str) -> dict:
    """How MADA's final losses compare with the others' over the cells of one seed; a diverged cell's is infinite."""
    by_cell = {}
    for row in table:
        value = row[loss] if math.isfinite(row[loss]) else math.inf
        by_cell.setdefault((row["beta1_0"], row["beta2_0"]), {})[row["optimizer"]] = value
    whole = [cell for cell in by_cell.values() if len(cell) == 3]
    found = {"cells": len(whole)}
    for other in ("adam", "hyperadam"):
        found[f"below {other}"] = mean(float(cell["mada"] < cell[other]) for cell in whole)
    for name in ("adam", "hyperadam", "mada"):
        losses = [cell[name] for cell in whole]
        found |= {f"mean of {name}": mean(losses), f"median of {name}": median(losses), f"best of {name}": min(losses)}
        found[f"worst of {name}"] = max(losses)
    return found


def report(table: list[dict], under: float | None) -> Iterator[str]:
    """The best cell, and each optimizer's share of cells under a training loss, by default the median of all."""
    finite = [row for row in table if math.isfinite(row["final_train_loss"])]
    if not finite:
        yield "no cell has a finite loss"
        return
    under = median(row["final_train_loss"] for row in finite) if under is None else under
    best = min(finite, key=lambda row: row["final_train_loss"])
    words = [f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in best.items()]
    yield f"best cell: {', '.join(words)}"
    for optimizer in dict.fromkeys(row["optimizer"] for row in table):
        losses = [row["final_train_loss"] for row in table if row["optimizer"] == optimizer]
        diverged = sum(not math.isfinite(loss) for loss in losses)
        middle = median(loss if math.isfinite(loss) else math.inf for loss in losses)
        yield (
            f"{optimizer:10s} {sum(loss < under for loss in losses) / len(losses):6.1%} of {len(losses)} cells under "
            f"{under:.4f}; {diverged} diverged; median {middle:.4f}"
        )


def compare(table: list[dict], theirs: list[dict]) -> Iterator[str]:
    """Ours minus theirs, cell by cell, where a cell is in both."""

    def key(row):
        return row["optimizer"], *[round(row[name], 6) for name in COLUMNS[1:7]]

    known, both = {key(row): row for row in theirs}, {}
    for row in table:
        if other := known.get(key(row)):
            pairs = [(row[name], other[name]) for name in LOSSES]
            both.setdefault(row["optimizer"], []).append([ours - their for ours, their in pairs])
            words = f"{row['optimizer']:10s} beta1 {row['beta1_0']:.4f} beta2 {row['beta2_0']:.4f}"
            for name, (ours, their) in zip(("train", "val"), pairs, strict=True):
                words += f"   {name} {ours:.4f} - {their:.4f} = {ours - their:+.4f}"
            yield words
    for optimizer, differences in both.items():
        train, val = ([d for d in column if math.isfinite(d)] for column in zip(*differences, strict=True))
        if train:
            yield (
                f"{optimizer:10s} ours minus theirs over {len(train)} cells: train mean {mean(train):+.4f}, largest "
                f"{max(train, key=abs):+.4f}; val mean {mean(val):+.4f}, largest {max(val, key=abs):+.4f}"
            )
    if not both:
        yield "no cell is in both tables"
