"""Run what is missing of a name in questions.py, and bring it to results/NAME/SCALE/TASK.jsonl: a line per run.

`what` is the module that says which runs there are, like reproduce.contest, with TASKS, SCALES, ROWS and
runs(task, scale, seeds). Everything that is shown is made from these files.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import NamedTuple

import metrics
from reproduce import pool, store
from reproduce.contest import Cell, Task
from reproduce.outcomes import readable
from reproduce.runs import FIRST_SEED, NUMERICS, Run

POINTS = 15  # of a curve


def name_of(what: ModuleType) -> str:
    return what.__name__.rpartition(".")[2]


def file_of(what: ModuleType, scale: str, task: str) -> Path:
    return store.RESULTS / name_of(what) / scale / f"{task}.jsonl"


def five_digits(value: float) -> float | None:
    """With 5 significant digits; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def result(records: list[dict], task: Task) -> float:
    """A task's value in a run's metrics: NaN where there is none."""
    found = [record for record in records if task.key in record]
    if not found:
        return math.nan
    return (max(found, key=lambda it: it[task.best]) if task.best else found[-1])[task.key]


def labels(key: tuple[str, Cell, int]) -> dict:
    """What a line says of the place of a run among others; key_of() is the way back."""
    row, cell, seed = key
    return {
        "row": row,
        "rate": cell.rate,
        "betas": list(cell.betas),
        "conditions": dict(cell.conditions),
        "seed": seed,
    }


def line(key: tuple[str, Cell, int], run: Run, task: Task) -> dict | None:
    """What is kept of a run, or None if it has not ended. Nothing is written to its folder."""
    state = pool.read(Path(store.WORK, run.id))
    if state["state"] != "done":
        return None
    header, records = metrics.read(os.path.join(store.WORK, run.id))
    value = math.nan if state.get("diverged") else result(records, task)
    logged = [record for record in records if "train_loss" in record]
    every = max(1, math.ceil(len(logged) / POINTS))
    logged = logged[(len(logged) - 1) % every :: every]  # the last one is among them
    curve = {"iter": [it["iter"] for it in logged], "loss": [five_digits(it["train_loss"]) for it in logged]}
    for name in logged[-1].get("coefficients", {}) if logged else ():
        curve[name] = [five_digits(it["coefficients"][name]) for it in logged]
    return {
        "run": run.id,
        "numerics": NUMERICS,
        **labels(key),
        "value": value if math.isfinite(value) else None,
        "diverged": not math.isfinite(value),
        "seconds": state.get("seconds") and round(state["seconds"], 2),
        **{name: header.get(name) for name in ("git", "torch", "device")},
        "curve": curve,
    }


def key_of(found: dict) -> tuple[str, Cell, int]:
    return (
        found["row"],
        Cell(found["rate"], tuple(found["betas"]), tuple(sorted(found["conditions"].items()))),
        found["seed"],
    )


def read(path: Path) -> dict[tuple[str, Cell, int], dict]:
    """{(row, cell, seed): line} of a file; {} where there is none."""
    with contextlib.suppress(FileNotFoundError), readable(path):
        return {key_of(found): found for found in map(json.loads, path.read_text().splitlines())}
    return {}


def shared(scale: str, task: str) -> dict[str, dict]:
    """{run id: line} of a task, whatever the name that it was run for: names ask for some runs in common."""
    paths = sorted(store.RESULTS.glob(f"*/{scale}/{task}.jsonl"))
    return {found["run"]: found for path in paths for found in read(path).values()}


def collect(what: ModuleType, scale: str, task: str, wanted: dict) -> None:
    """Bring to a name's results runs that have ended or that another name holds, and keep what else is there."""
    path = file_of(what, scale, task)
    known, others, new = read(path), shared(scale, task), {}
    for at, run in wanted.items():
        if known.get(at, {}).get("run") != run.id:
            found = others[run.id] | labels(at) if run.id in others else line(at, run, what.TASKS[task])
            new |= {at: found} if found else {}
    if not new:
        return
    order = {at: place for place, at in enumerate(wanted)}
    found = sorted((known | new).items(), key=lambda it: order.get(it[0], len(order)))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text("".join(json.dumps(it) + "\n" for _, it in found))
    os.replace(part, path)


class Gathered(NamedTuple):
    found: dict  # {row: {cell: {seed: line}}} of the runs that are asked for today
    others: int  # lines of other runs
    left: list  # (row, cell, seed) of those that are not there


def gather(what: ModuleType, scale: str, task: str, seeds: int | None = None) -> Gathered:
    """What results/ holds of a task; seeds: how many are asked for, of each cell. Any further ones are found too."""
    known, found, others = read(file_of(what, scale, task)), {}, 0
    asked = what.runs(task, scale, seeds)
    most = max((seed for _, _, seed in known), default=FIRST_SEED) - FIRST_SEED + 1
    wanted = what.runs(task, scale, most) if known else {}
    for (row, cell, seed), it in known.items():
        if (row, cell, seed) in wanted and wanted[row, cell, seed].id == it["run"]:
            found.setdefault(row, {}).setdefault(cell, {})[seed] = it
        else:
            others += 1
    left = [(row, cell, seed) for row, cell, seed in asked if seed not in found.get(row, {}).get(cell, {})]
    return Gathered({row: found[row] for row in dict.fromkeys([*what.ROWS, *found]) if row in found}, others, left)


def no_worse_than_chance(task: Task, value: float | None) -> float:
    """The value of a run, which is None if it diverged."""
    return task.chance if value is None else (max if task.higher else min)(value, task.chance)


def values(found: dict, task: Task) -> dict:
    """The values of lines: {row: {cell: {seed: value}}}; none is worse than chance."""
    return {
        row: {cell: {seed: no_worse_than_chance(task, it["value"]) for seed, it in seeds.items()}
              for cell, seeds in cells.items()}
        for row, cells in found.items()
    }  # fmt: skip


def gathered(what: ModuleType, scale: str, seeds: int | None = None) -> tuple[dict[str, Gathered], dict[str, dict]]:
    """What results/ holds of a name at a scale: {task: Gathered}, {task: its values}."""
    found = {name: gather(what, scale, name, seeds) for name in what.SCALES[scale]}
    return found, {name: values(it.found, what.TASKS[name]) for name, it in found.items()}


def missing(what: ModuleType, scale: str, task: str, wanted: dict) -> dict:
    """Those of the wanted runs that results/ does not hold, for this name or another."""
    known = shared(scale, task)
    return {key: run for key, run in wanted.items() if run.id not in known}


def perform(what: ModuleType, scale: str, tasks: Iterable[str], seeds: int | None, workers: int | None) -> list[str]:
    """Run what is missing: the first two rows of all tasks, then the others. Returns the errors of runs that failed."""
    failed = []
    for part in (slice(2), slice(2, None)):
        for task in tasks:
            wanted = what.runs(task, scale, seeds)
            rows = list(dict.fromkeys(row for row, _, _ in wanted))[part]
            left = {key: run for key, run in missing(what, scale, task, wanted).items() if key[0] in rows}
            if left:
                print(f"{name_of(what)} {scale} {task}: {len(left)} runs of {', '.join(rows)}", flush=True)
                try:
                    states = pool.execute(list(left.values()), store.WORK, workers, True, keep_checkpoints=False)
                    failed += pool.errors(states)
                finally:  # stopped or not, what has ended is kept
                    collect(what, scale, task, wanted)
    return failed


def estimate(what: ModuleType, scale: str, tasks: Iterable[str], seeds: int | None) -> tuple[int, int, float | None]:
    """How many runs there are, how many are missing, and the seconds of one worker for these: by those of the same row,
    or else of the task.
    """
    count, left, seconds = 0, 0, 0.0
    for task in tasks:
        wanted = what.runs(task, scale, seeds)
        absent = missing(what, scale, task, wanted)
        lost = [key for key, run in absent.items() if pool.read(Path(store.WORK, run.id))["state"] != "done"]
        count, left = count + len(wanted), left + len(lost)
        timed = {}
        for (row, _, _), it in read(file_of(what, scale, task)).items():
            if it["seconds"]:
                timed.setdefault(row, []).append(it["seconds"])
        every = [each for some in timed.values() for each in some]
        known = [timed.get(row, every) for row, _, _ in lost]
        seconds = sum(map(mean, known), seconds) if seconds is not None and all(known) else None
    return count, left, seconds
