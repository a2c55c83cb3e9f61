"""Reproduce a name at a scale: run what is missing, resume what was cut off, and make its table or figure."""

import datetime
import json
import os
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from reproduce import figures, questions, store, tables
from reproduce.experiments import LINEUPS, NAMES, PROFILE, SCALES
from reproduce.outcomes import read, readable
from reproduce.pool import errors, execute, look
from reproduce.published import PUBLISHED
from settings import UserError

KINDS = {
    "losses": tables.losses,
    "perplexities": tables.perplexities,
    "profile": tables.profile,
    "bound": figures.bound,
    "proposition": figures.proposition,
    "curves": figures.curves,
    "coefficients": figures.coefficients,
    "grid": figures.cells,
    "convex": figures.convex,
}
tried = set()  # runs that this process has done or seen fail


def scales(name: str) -> list[str]:
    """Those at which a name can be shown."""
    if name in questions.NAMES:
        return questions.scales(name)
    kind, lineups, rest, _ = NAMES[name]
    # without lineups: the scales of the grid, or of the profile, also for what is the same at all scales
    has = [LINEUPS[lineup].scales for lineup in lineups] or [rest if kind == "grid" else PROFILE]
    return [scale for scale in SCALES if any(scale in each for each in has)]


def check(name: str, scale: str):
    """Raises UserError where there is no such name, or it does not have the scale."""
    if name not in NAMES and name not in questions.NAMES:
        raise UserError(f"{name}: must be one of {', '.join([*NAMES, *questions.NAMES])}")
    if scale not in scales(name):
        raise UserError(f"{name} has no scale {scale}; it has {', '.join(scales(name))}")


class Estimate(NamedTuple):
    runs: int  # of the name at the scale
    missing: int  # how many of these are
    seconds: float | None  # of one worker for what is missing; None where nothing like it has been timed

    def __str__(self) -> str:
        runs = f"{self.runs} run{'s' * (self.runs > 1)}"
        if not self.missing:
            return f"{runs}, all there"
        if self.seconds is None:
            return f"{runs}, {self.missing} missing: not timed yet"
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if 1 <= minutes < 90 else f"{minutes / 60:.0f} h" if minutes > 1 else "a minute"
        return f"{runs}, {self.missing} missing: about {time} of one worker"


def estimate(
    name: str, scale: str, seeds: int | None = None, with_grid: bool = True, task: str | None = None
) -> Estimate:
    """What reproduce() would run, and how long it would take, by the same rows' runs in results/ or else in out/.

    Raises UserError.
    """
    check(name, scale)
    if name in questions.NAMES:
        return Estimate(*questions.estimate(name, scale, seeds, task))
    (kind, lineups, rest, _), folder = NAMES[name], store.RESULTS / name / scale
    if kind in ("bound", "proposition"):
        return Estimate(1, int(not (folder / "theory.json").exists()), 10.0)
    if kind == "profile":
        return of_profile(folder / "measured.json", scale, rest)
    if kind == "grid":
        return of_sweep(figures.sweep(scale, folder, rest, seeds))
    return of_lineups([it for it in lineups if scale in LINEUPS[it].scales], scale, seeds, with_grid)


def of_profile(path: Path, scale: str, rest: dict) -> Estimate:
    with readable(path):
        left = tables.unmeasured(scale, rest, json.loads(path.read_text()) if path.exists() else {})
    return Estimate(len(rest) * len(PROFILE[scale][1]), len(left), None)


def of_sweep(it: figures.Sweep) -> Estimate:
    found = [look(cell, it.out) for seed in it.missing for cell in it.cells[seed]]
    took = [state["seconds"] for state in found if state["state"] == "done"]
    left, each = len(found) - len(took), mean(took) if took else it.seconds
    return Estimate(sum(map(len, it.cells.values())), left, each and each * left)


def of_lineups(lineups: list[str], scale: str, seeds: int | None, with_grid: bool) -> Estimate:
    missing, all_runs, known = [], 0, {}
    for lineup in lineups:
        found = store.cells(lineup, scale, seeds, with_grid, waiting=True)
        all_runs += len(found)
        for key, cell in found.items():
            path = store.file_of(lineup, scale, *key)
            state = look(cell, store.WORK)
            header = read(path)[0] if path.exists() else {}
            done = state["state"] == "done"
            took = None if header.get("resumed_at") else header.get("seconds")
            took = took or (state["seconds"] if done else None)
            known.setdefault((lineup, key[0]), []).extend([took] if took else [])
            if not done and not store.fresh(path, cell):
                missing.append((lineup, key[0]))
    every = [it for some in known.values() for it in some]
    costs = [mean(known[row]) if known[row] else mean(every) if every else None for row in missing]
    return Estimate(all_runs, len(missing), None if None in costs else sum(costs))


def perform(lineup: str, scale: str, seeds: int | None, workers: int | None, with_grid: bool) -> list[str]:
    """Run what results/ does not hold of a lineup, and bring it there. Returns the errors of runs that failed."""
    failed, keep = [], bool(LINEUPS[lineup].scales[scale].evaluated)
    while True:
        found = store.cells(lineup, scale, seeds, with_grid)
        paths = {key: store.file_of(lineup, scale, *key) for key in found}
        missing = [it for key, it in found.items() if not store.fresh(paths[key], it) and it.id not in tried]
        tried.update(cell.id for cell in missing)
        if missing:
            failed += errors(execute(missing, store.WORK, workers, True, keep_checkpoints=keep))
        store.collect(lineup, scale, found)
        if not missing:  # and no run has ended that others waited for
            return failed


def reproduce(
    name: str,
    scale: str,
    seeds: int | None = None,
    workers: int | None = None,
    draw: bool = False,
    with_grid: bool = True,
    task: str | None = None,
) -> list[str]:
    """Make one table or figure at one scale; draw: run nothing; task: only this one, of a name that has tasks.

    Returns the errors of runs that failed. Raises UserError.
    """
    check(name, scale)
    if name in questions.NAMES:
        return questions.reproduce(name, scale, seeds, workers, draw, task)
    kind, lineups, rest, _ = NAMES[name]
    lineups, failed = [lineup for lineup in lineups if scale in LINEUPS[lineup].scales], []
    folder = store.RESULTS / name / scale
    folder.mkdir(parents=True, exist_ok=True)
    for lineup in lineups:
        if draw:  # collect what has ended in the meantime
            store.collect(lineup, scale, store.cells(lineup, scale, seeds, with_grid))
        else:
            failed += perform(lineup, scale, seeds, workers, with_grid)
    runs = {lineup: store.gather(lineup, scale) for lineup in lineups}
    summary = KINDS[kind](
        name=name, scale=scale, folder=folder, runs=runs, rest=rest, draw=draw, workers=workers, seeds=seeds
    )
    if summary is None:
        print(f"{name} {scale}: nothing has been run yet")
        return failed
    grids = any(LINEUPS[lineup].scales[scale].grid for lineup in lineups)
    bare = grids and not any(set(factors) - {1} for ended in runs.values() for factors in ended.values())
    options = f" --seeds {seeds}" * (seeds is not None) + " --no_grid" * (bare or not with_grid)
    head = {
        "name": name,
        "scale": scale,
        "source": PUBLISHED[name]["source"],
        "command": f"python scripts/reproduce.py {name} --scale {scale}{options}",
        "date": f"{datetime.date.today()}",
        "logs": [os.path.relpath(store.home(lineup, scale), store.RESULTS) for lineup in lineups],
    }
    path, made = folder / "summary.json", head | summary
    with readable(path):
        old = json.loads(path.read_text()) if path.exists() else {}
    if draw:  # what is only drawn again keeps its date
        made |= {key: old[key] for key in ("date", *["command"] * (not lineups)) if key in old}
    if json.dumps(made | {"date": ""}) == json.dumps(old | {"date": ""}):  # nothing new; JSON's keys are strings
        made["date"] = old["date"]
    path.write_text(json.dumps(made, indent=1) + "\n")
    store.say(folder)
    return failed
