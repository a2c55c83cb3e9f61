"""Figures from what results/ holds, next to the authors' logs if there are any; called like tables.py's functions."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import metrics
from reproduce import ROOT, drawing, grid, proportions, theory
from reproduce.drawing import SYMBOLS, series
from reproduce.markdown import markdown
from reproduce.outcomes import best_of, conditions, gap, headers, readable, spread, whole
from reproduce.pool import errors, execute
from reproduce.proportions import schedule
from reproduce.published import PAPER, STEPS, authors
from reproduce.runs import Run, first_seeds
from settings import UserError

EARLY = (2, 5, 10)  # % of the schedule: the end of the warm-up, and two later points
LEAST = 0.02  # motion of a coefficient that counts
LOGS = {"Adam": "adam", "MADA": "mada_rho0_beta3_0.9", "MADA (rho_0 = 0)": "mada_rho0_beta3_0"}


def smooth(values: list) -> list:
    """A running mean over the last 5 logged values."""
    return [sum(values[max(0, i - 4) : i + 1]) / min(i + 1, 5) for i in range(len(values))]


def early(ended: dict, labels: list, logs: dict) -> list[dict]:
    """Validation losses relative to Adam's at EARLY; where none of these was evaluated, at the first step that was.

    [{"percent", "step", "gaps": {label: Gap}, "authors": {label: their difference at that part of their steps}}]
    """
    first, length = series(ended["Adam"][1][0].records, "val_loss")[0], schedule(ended["Adam"][1][0].header["config"])
    steps = [step for step in first if any(100 * step == percent * length for percent in EARLY)]
    found, adam = [], logs["Adam"]
    for step in steps or [step for step in first if step > 0][:1]:
        at = {}
        for label in labels:
            losses = {run.seed: dict(zip(*series(run.records, "val_loss"), strict=True)) for run in ended[label][1]}
            at[label] = spread({seed: it.get(step) for seed, it in losses.items()})
        gaps = {label: gap(at[label], at["Adam"]) for label in labels if label != "Adam"}
        parts = [abs(it / STEPS - step / length) for it in adam["iteration"]]
        row = parts.index(min(parts))
        theirs = {label: log["val_loss"][row] - adam["val_loss"][row] for label, log in logs.items() if label != "Adam"}
        ours = {label: it._asdict() | {"words": it.words("lower", 4)} for label, it in gaps.items() if it}
        found.append({"percent": 100 * step / length, "step": step, "gaps": ours, "authors": theirs})
    return found


def curves(name: str, scale: str, folder: Path, runs: dict, rest: tuple, **_) -> dict | None:
    """Figures 3 and 4: a loss over steps, at the scale's learning rate and at each row's best one; the authors'."""
    key, *labels = rest
    ((lineup, ended),) = runs.items()
    labels = [label for label in labels if label in ended]
    if not labels:
        return None
    full, note = proportions.sentence(name, scale, lineup, tuple(labels))
    best = {label: best_of(ended[label], lambda run: run.value("val_loss"), "lower") for label in labels}

    def drawn(factors):
        found = {}
        for label in labels:
            logged = [series(run.records, key) for run in whole(ended[label].get(factors[label], []))]
            if logged:
                steps = logged[0][0]
                first = reached(steps, steps[-1] / 10)  # before that all fall alike
                values = [smooth(each) if key == "train_loss" else each for _, each in logged]
                found[f"{label}, lr x{factors[label]:g}"] = steps[first:], [each[first:] for each in values]
        return found

    cfg = ended[labels[0]][1][0].header["config"]
    theirs = {label: authors(log, cfg["max_iters"] / schedule(cfg)) for label, log in LOGS.items()}
    whose = proportions.whose_rate(lineup, scale)
    panels = {f"ours, at {whose} learning rates": drawn(dict.fromkeys(labels, 1))}
    if set(best.values()) != {1}:
        panels["ours, each at its best learning rate"] = drawn(best)
    panels["the authors' logs (GPT-2 125M)"] = {
        label: (log["iteration"][first:], [log[key][first:]])
        for label, log in theirs.items()
        for first in [reached(log["iteration"], log["iteration"][-1] / 20)]
    }
    unit = "byte" if any(header["data"]["tokenizer"] == "bytes" for header in headers(ended)) else "token"
    smoothed = " Training losses are running means over 5 logged steps." * (key == "train_loss")
    drawing.curves(
        panels,
        folder / "figure.png",
        f"{key.replace('_', ' ')} (nats per {unit}; the authors' per token)",
        f"Mean and range over seeds.{smoothed} {note}",
    )
    return {
        "results": {
            label: {"factor": best[label]}
            | {
                what: spread({run.seed: run.value(key) for run in ended[label][factor]})
                for what, factor in (("at the scale's rate", 1), ("at its best rate", best[label]))
                if factor in ended[label]
            }
            for label in labels
        },
        "rates": whose,
        "early": early(ended, labels, theirs) if key == "val_loss" and "Adam" in labels else [],
        "authors": {
            label: {str(step): log[key][log["iteration"].index(step)] for step in (2000, 5000, log["iteration"][-1])}
            for label, log in theirs.items()
        },
        "full_scale": full,
        "note": note,
        "conditions": conditions(headers({label: ended[label] for label in labels})),
    }


def phases(values: list) -> int:
    """How many stretches a curve consists of, each up or down by more than LEAST: 0 where it never moves that far."""
    count, way, last = 0, 0, values[0]
    for x in values:
        if way and (x - last) * way >= 0:
            last = x
        elif abs(x - last) > LEAST:
            count, way, last = count + 1, math.copysign(1, x - last), x
    return count


def reached(steps: list, step: float) -> int:
    """The index of the first of the steps that is not before `step`."""
    return next(i for i, it in enumerate(steps) if it >= step)


def motion(values: list, warm: int) -> dict:
    """What a coefficient does in a run; values[warm]: its value at the end of the warm-up."""
    found = {"start": values[0], "warm": values[warm], "end": values[-1], "low": min(values), "high": max(values)}
    return found | {"phases": phases(values)}


def coefficients(name: str, scale: str, folder: Path, runs: dict, rest: tuple, **_) -> dict | None:
    """Figures 5 to 7: the learned coefficients over the run, next to the authors'."""
    ((lineup, ended),) = runs.items()
    label = rest[0]
    drawn = {which: whole(ended.get(which, {}).get(1, [])) for which in (label, f"{label} (rule=authors)")}
    drawn = {which: some for which, some in drawn.items() if some}
    if not drawn:
        return None
    full, note = proportions.sentence(name, scale, lineup, (label,))
    first = next(iter(drawn.values()))
    cfg, lines, found = first[0].header["config"], {}, {}
    log = authors(rest[1], cfg["max_iters"] / schedule(cfg))
    for which, some in drawn.items():
        every = [series(run.records, "coefficients") for run in some]
        steps, starts = every[0][0], [{key: run.header["config"][key] for key in SYMBOLS} for run in some]
        paths = {
            key: [
                [grid.ADAM[key] if start[key] is None else start[key], *[value[key] for value in values]]
                for start, (_, values) in zip(starts, every, strict=True)
            ]
            for key in SYMBOLS
        }
        at = [0, *[100 * step / schedule(cfg) for step in steps]]
        lines[f"{which}, ours"] = {key: (at, paths[key]) for key in SYMBOLS}
        found[which] = {
            str(run.seed): {
                key: motion(paths[key][i], reached([0, *steps], run.header["config"]["warmup_iters"]))
                for key in SYMBOLS
            }
            for i, run in enumerate(some)
        }
    at = [100 * step / STEPS for step in log["iteration"]]
    lines["the authors' log"] = {key: (at, [log[key]]) for key in SYMBOLS}
    n, whose = len(first), proportions.whose_rate(lineup, scale)
    caption = f"Mean and range over {n} seeds, at {whose} learning rate. {note}"
    drawing.coefficients(lines, folder / "figure.png", caption)
    return {
        "results": found,
        "authors": {key: motion(log[key], reached(log["iteration"], 2000)) for key in SYMBOLS},
        "full_scale": full,
        "note": note,
        "conditions": conditions(headers({which: {1: some} for which, some in drawn.items()})),
    }


def stored(path: Path, draw: bool, compute) -> dict | None:
    """The result of a deterministic computation, from a file in results/; without `draw` it is computed again."""
    if not draw:
        path.write_text(json.dumps(compute()) + "\n")
    return json.loads(path.read_text()) if path.exists() else None


def bound(folder: Path, rest: tuple, draw: bool, **_) -> dict | None:
    """Figures 1 and 2."""
    report = stored(folder / "theory.json", draw, lambda: theory.theorem(*rest))
    if report is None:
        return None
    caption = f"beta2 = {report['beta2']}, constants {report['constants']}; deterministic."
    drawing.bound(report, folder / "figure.png", caption)
    ends = {"AVGrad": report["bound"][0], "least": min(report["bound"]), "Adam": report["bound"][-1]}
    return {
        "results": {"best_rho": report["best_rho"], "beta2": report["beta2"], "T": report["T"], "bound": ends},
        "full_scale": True,
        "note": "Full scale: all constants 1.",
        "conditions": conditions([report]),
    }


def proposition(folder: Path, draw: bool, **_) -> dict | None:
    """Proposition 1, on gradients that test it hard."""
    report = stored(folder / "theory.json", draw, theory.proposition)
    if report is None:
        return None
    note = f"T = {report['T']:,} steps, beta2 = {report['beta2']}, {4 * theory.COUNT} sequences of gradients: "
    note += "normal, heavy-tailed, spikes, silence after a burst."
    rows = [[rule, f"{100 * (growth - 1):+.2f} %"] for rule, growth in report["growth"].items()]
    shown = markdown(["rule of rho_t", "largest change of the step size in one step"], rows)
    (folder / "table.md").write_text("\n".join([note, "", "# prop1", "", shown, "", conditions([report])]) + "\n")
    return {"results": report["growth"], "full_scale": True, "note": note, "conditions": conditions([report])}


def convex(name: str, scale: str, folder: Path, runs: dict, **_) -> dict | None:
    """Figure 9: average regret, x and rho over steps."""
    ended = runs["convex"].get("all")
    if not ended:
        return None
    records, header = ended[1][0].records, ended[1][0].header
    full, note = proportions.sentence(name, scale, "convex")
    cfg = header["config"]
    other = [f"{row}: {it['learning_rate']:g}" for row, it in cfg["optimizers"].items() if "learning_rate" in it]
    rates = "; ".join([format(cfg["learning_rate"], "g"), *other])
    drawing.convex(records, folder / "figure.png", f"Deterministic; {cfg['schedule']} learning rate {rates}. {note}")
    last = records[-1]
    arrival = {row: next((record["iter"] for record in records if record["x"][row] < -0.95), None) for row in last["x"]}
    return {
        "results": {key: last[key] for key in ("x", "regret", "rho", "c", "iter")} | {"reaches -0.95 at": arrival},
        "settings": cfg,
        "full_scale": full,
        "note": note,
        "conditions": conditions([header]),
    }


class Sweep(NamedTuple):
    """The cells of Figure 8 that are wanted."""

    out: Path  # where they are run
    cells: dict[int, list[Run]]  # of each seed
    missing: dict[int, Path]  # {seed that results/ does not hold: the file that it goes to}
    seconds: float | None  # that a cell takes, by the sweep file


def sweep(scale: str, folder: Path, rest: dict, seeds: int | None) -> Sweep:
    """folder: the figure's in results/. Raises UserError."""
    file, default_seeds = rest[scale]
    found = {it: grid.cells(str(ROOT / file), [f"--seed={it}"]) for it in first_seeds(seeds or default_seeds)}
    paths = {seed: folder / f"cells-seed{seed}.csv" for seed in found}
    if (folder / "summary.json").exists():  # which has what is to be said of the seeds that are there
        paths = {seed: path for seed, path in paths.items() if not path.exists()}
    out = ROOT / "out" / "sweeps" / Path(file).stem
    return Sweep(out, {seed: it for seed, (it, _) in found.items()}, paths, next(iter(found.values()))[1])


def run_missing(it: Sweep, workers: int | None) -> str:
    """Run what is missing and bring it to results/. Returns the conditions. Raises UserError."""
    every = [cell for seed in it.missing for cell in it.cells[seed]]
    if failed := errors(execute(every, it.out, workers, True, keep_checkpoints=False)):
        raise UserError(
            f"{len(failed)} cells failed: {'; '.join(dict.fromkeys(failed))}; "
            f"the same command tries them again ({it.out}/ID/log.txt)"
        )
    for seed, path in it.missing.items():
        grid.write(list(grid.rows(it.cells[seed], it.out)), path)
    return conditions([metrics.read(it.out / cell.id)[0] for cell in every])


def cells(name: str, scale: str, folder: Path, rest: dict, draw: bool, workers: int | None, seeds: int | None, **_):
    """Figure 8: the cells of a sweep file, for each seed, and the same picture of the authors' cells."""
    wanted, before, under = None if draw else sweep(scale, folder, rest, seeds), folder / "summary.json", []
    if before.exists() and any(folder.glob("cells-seed*.csv")):  # of which it is true
        with readable(before):
            under.append(json.loads(before.read_text())["conditions"])
    if wanted and wanted.missing:
        under.append(run_missing(wanted, workers))
    ours = [grid.read(path) for path in sorted(folder.glob("cells-seed*.csv"))]
    if not ours or not under:
        return None
    theirs = grid.read(PAPER / "authors_shakespeare_grid.csv")
    full, note = proportions.sentence(name, scale)
    for tables, picture, what in (
        (ours, "figure.png", f"Ours, mean over {len(ours)} seed{'s' * (len(ours) > 1)}. {note}"),
        ([theirs], "authors.png", "The authors' cells, one seed."),
    ):
        what += " A cross: a run diverged. The worst tenth and the best hundredth of the cells have one color each."
        drawing.grid(grid.panels_of(tables), folder / picture, what)
    return {
        "results": {
            loss: {"ours": [finite(grid.shares(table, loss)) for table in ours], "authors": grid.shares(theirs, loss)}
            for loss in grid.LOSSES
        },
        "full_scale": full,
        "note": note,
        "conditions": " ".join(under),
    }


def finite(numbers: dict) -> dict:
    """Without what JSON has no word for: null stands for the infinite loss of a diverged cell."""
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
