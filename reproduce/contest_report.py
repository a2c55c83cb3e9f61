"""The contest's page: verdict, goals, tables and pictures, from what results/ holds."""

import math
from pathlib import Path
from statistics import mean
from types import ModuleType

from reproduce import contest, contest_drawing, contest_paths, contest_runs, verdict
from reproduce.contest import START, TASKS
from reproduce.outcomes import conditions

HOW = """
A cell is a task, a learning rate, initial betas and, for some, a schedule and a weight decay. MADA and AdamW are compared in
pairs of runs with the same seed: the same initial weights, batches, schedule, decay and clipping. MADA's settings are its
defaults in every run; they were chosen on the 0.1M GPT on Shakespeare, and not touched since. Gaps are signed so that positive
is worse than AdamW.

- *no worse*: the mean paired gap is at most two standard errors, or at most 0.5 % of AdamW's value. *At one error*: the same
  with one. *below*: the mean gap is negative. Only cells with two seeds or more count. *two errors*: what two standard errors
  are in the median cell, as a share of AdamW's value: how large a gap can go unseen there.
- *relative gap*: of a pair, the difference over the larger of the two sizes, so that it lies between -1 and 1, and a run that
  ends at 1e11, as some of AdamW's do, counts like any that has failed (one that is not finite: as 1). Mean over the cells of a
  seed, then mean over the seeds ± its standard error; and the median over all pairs, which no outlier moves.
- *failed*: pairs in which one ends at more than twice the other's loss (a relative gap beyond 0.5), AdamW's or MADA's.
- *worst cell*: where the mean gap most exceeds what *no worse* allows, as a share of AdamW's value; where none does, the
  largest relative gap.
- *damage undone*: of cells in which other betas make AdamW worse than it is from (0.9, 0.95) at the same rate (by the measure
  of *no worse*): 1 - (MADA - AdamW from (0.9, 0.95)) / (AdamW - AdamW from (0.9, 0.95)), cut to lie in [0, 1], and the
  mean of that. *Level*: in how many of them MADA, from the bad betas, is no worse than AdamW from the good ones; it is the
  harder measure, since undoing nearly all of a divergence may still leave a bad run.
- *best rates*: the rate, or the rate and the betas, with the best mean of each, chosen by the very numbers that are shown.
"""


def markdown(head: list, lines: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *lines))


def number(value: float) -> str:
    """With four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def signed(gap: verdict.Gap) -> str:
    return f"{gap.mean:+.2g} ± {gap.error:.1g}" if math.isfinite(gap.mean) else f"{gap.mean:+}"


def share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.0f} %)"


def span(counts: list[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))


def undone(it: dict) -> str:
    if not it["undone"]:
        return "no cell is damaged"
    return f"{100 * mean(it['undone'].values()):.0f} %; level in {it['level']} of {len(it['undone'])}"


def task_lines(found: dict[str, dict]) -> str:
    """A line per task, and one for all."""
    head = ["task", "cells", "seeds", "MADA below", "no worse", "at one error", "two errors", "relative gap, mean", "median",
            "failed: AdamW, MADA", "worst cell", "damage undone"]  # fmt: skip
    lines = []
    for name, it in found.items():
        worst, n = it["gaps"][it["worst"]], len(it["gaps"])
        error = "" if it["relative_error"] is None else f" ± {it['relative_error']:.3f}"
        over = f"{100 * worst.excess():.1f} % beyond" if worst.excess() else "none beyond"
        lines.append([
            TASKS[name].title, n, span(it["seeds"]),
            share(it["below"], n), share(it["no_worse"], n), share(it["no_worse_1"], n), f"{100 * it['resolution']:.2g} %",
            f"{it['relative']:+.3f}{error}", f"{it['relative_median']:+.4f}", f"{it['saved']}, {it['failed']} of {it['pairs']}",
            f"{over}: {it['worst']}, {signed(worst)}", undone(it),
        ])  # fmt: skip
    if len(found) > 1:
        n = sum(len(it["gaps"]) for it in found.values())
        total = {key: sum(it[key] for it in found.values()) for key in ("below", "no_worse", "no_worse_1", "saved", "failed",
                                                                        "pairs", "level")}  # fmt: skip
        shares = {(name, cell): value for name, it in found.items() for cell, value in it["undone"].items()}
        lines.append([
            "**all**", n, "", *(share(total[key], n) for key in ("below", "no_worse", "no_worse_1")), "",
            f"{mean(it['relative'] for it in found.values()):+.3f}", "",
            f"{total['saved']}, {total['failed']} of {total['pairs']}", "", undone({"undone": shares, "level": total["level"]}),
        ])  # fmt: skip
    return markdown(head, lines)


def best_lines(found: dict[str, dict], values: dict) -> str:
    """AdamW and MADA, each at its best rate from (0.9, 0.95), and at its best rate and betas."""
    head = [
        "task",
        "value",
        "AdamW, best rate",
        "MADA, best rate",
        "gap",
        "AdamW, best of all",
        "MADA, best of all",
        "gap",
    ]
    lines = []
    for name, it in found.items():
        cells = [TASKS[name].title, TASKS[name].unit]
        for key in ("start", "anywhere"):
            if it[key] is None:
                cells += ["-", "-", "-"]
                continue
            for row, which in (("AdamW", "theirs"), ("MADA", "ours")):
                cell = it[key][which]
                where = f"{cell.rate:g}" + f", {cell.betas}" * (key == "anywhere")
                cells.append(f"{number(mean(values[name][row][cell].values()))} at {where}")
            gap = it[key]["gap"]
            word = "not told apart" if not gap.clear else "better" if gap.mean < 0 else "worse"
            cells.append(f"{signed(gap)}, {word} (n = {gap.n})")
        lines.append(cells)
    return markdown(head, lines)


def row_lines(values: dict) -> str:
    """All rows against AdamW, over all tasks that have them."""
    head = ["row", "tasks", "cells", "below AdamW", "no worse", "relative gap, mean of tasks", "failed",
            "better at its best rate, clearly", "worse, clearly"]  # fmt: skip
    lines = []
    for row in [*contest.ROWS, *contest.ONCE][1:]:
        found = [it for name in values if (it := verdict.summary(TASKS[name], values[name], row))]
        if found:
            n = sum(len(it["gaps"]) for it in found)
            best = [it["start"]["gap"] for it in found if it["start"]]
            lines.append([
                row, len(found), n, share(sum(it["below"] for it in found), n), share(sum(it["no_worse"] for it in found), n),
                f"{mean(it['relative'] for it in found):+.3f}", sum(it["failed"] for it in found),
                f"{sum(gap.mean < 0 and gap.clear for gap in best)} of {len(best)}",
                f"{sum(gap.mean > 0 and gap.clear for gap in best)} of {len(best)}",
            ])  # fmt: skip
    return markdown(head, lines)


def sentences(found: dict[str, dict]) -> list[str]:
    """The verdict, computed."""
    n, seeds = sum(len(it["gaps"]) for it in found.values()), sorted({n for it in found.values() for n in it["seeds"]})
    fine, fine_1, below = (sum(it[key] for it in found.values()) for key in ("no_worse", "no_worse_1", "below"))
    best = {name: it["start"]["gap"] for name, it in found.items() if it["start"]}
    better, worse = ([name for name, gap in best.items() if gap.clear and gap.mean * sign < 0] for sign in (1, -1))
    names = {"better": ", ".join(better) or "none", "worse": ", ".join(worse) or "none"}
    shares = {(name, cell): it for name, found_here in found.items() for cell, it in found_here["undone"].items()}
    level = sum(it["level"] for it in found.values())
    worst = max(found, key=lambda name: found[name]["gaps"][found[name]["worst"]].excess())
    excess = found[worst]["gaps"][found[worst]["worst"]].excess()
    end = f"the worst cell is {100 * excess:.1f} % beyond that, on {worst} ({found[worst]['worst']})" if excess else ""
    damage = undone({"undone": shares, "level": level}) + " damaged cells" if shares else "nothing that can be measured"
    return [
        f"Put in AdamW's place with nothing else changed, MADA is no worse in {share(fine, n)} cells of {len(found)} "
        + f"task{'s' * (len(found) > 1)}, {span(seeds)} seeds each ({share(fine_1, n)} at one standard error), and its mean is below "
        + f"AdamW's in {share(below, n)}; {end or 'no cell is beyond that'}.",
        f"Each at its best rate from betas (0.9, 0.95), MADA is better by more than two standard errors on {len(better)} "
        + f"of {len(best)} ({names['better']}) and worse on {len(worse)} ({names['worse']}); on the others the two "
        + "cannot be told apart.",
        f"Of the damage that bad initial betas do to AdamW, MADA undoes {damage}.",
    ]


def panels(task: contest.Task, found: dict) -> dict:
    """What contest_drawing.task draws of a task's values."""

    def picked(choose, name):
        return {row: at for row, cells in found.items()
                if (at := {name(cell): list(runs.values()) for cell, runs in cells.items() if choose(cell)})}  # fmt: skip

    shown = {("learning rate, from betas (0.9, 0.95)", True):
             picked(lambda cell: cell.betas == START and not cell.conditions, lambda cell: cell.rate)}  # fmt: skip
    best = contest_paths.best_rate(task, found)
    if best:
        rows = picked(
            lambda cell: cell.rate == best and not cell.conditions,
            lambda cell: f"{cell.betas[0]:g},\n{cell.betas[1]:g}",
        )
        rows = {row: at for row, at in rows.items() if len(at) > 1}
        if rows:
            shown[f"initial betas, at AdamW's best rate {best:g}", False] = rows
        with_conditions = picked(lambda cell: cell.rate == best and cell.betas == START,
                                 lambda cell: "\n".join(map(str, dict(cell.conditions).values())) or "cosine\n0.0")  # fmt: skip
        rows = {row: at for row, at in with_conditions.items() if len(at) > 1}
        if rows:
            shown["schedule and weight decay, at that rate", False] = rows
    return shown


def distances(task: contest.Task, values: dict) -> list[tuple[float, float]]:
    """Of AdamW's and of MADA's mean in each cell: how far it is above the best mean of the two, as a share of that."""
    means = {row: {cell: mean(it.values()) for cell, it in values.get(row, {}).items()} for row in ("AdamW", "MADA")}
    every = [value for cells in means.values() for value in cells.values() if math.isfinite(value)]
    best = max(every) if task.higher else min(every)

    def above(value):
        return abs(value - best) / abs(best) if math.isfinite(value) else math.inf

    return [
        (above(means["AdamW"][cell]), above(value)) for cell, value in means["MADA"].items() if cell in means["AdamW"]
    ]


def still_missing(what: ModuleType, scale: str, seeds: int | None) -> str:
    """In words, what has not been run, and how many lines in results/ are of another version."""
    left = {
        name: len(contest_runs.missing(what, scale, name, what.runs(name, scale, seeds))) for name in what.SCALES[scale]
    }
    others = sum(contest_runs.gather(what, scale, name)[1] for name in what.SCALES[scale])
    words = ", ".join(f"{count} runs of {name}" for name, count in left.items() if count)
    said = [f"Still to be run: {words}."] * bool(words) + [f"{others} runs of another version are left out."] * bool(
        others
    )
    return " ".join(said)


def conditions_of(found: dict) -> str:
    """Hardware and versions; found: {task: lines as contest_runs.gather has them}."""
    return conditions([line for rows in found.values() for cells in rows.values() for seeds in cells.values()
                       for line in seeds.values()])  # fmt: skip


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md and the pictures to folder. Returns what summary.json is to hold, or None where there is nothing."""
    kept = {name: contest_runs.gather(contest, scale, name)[0] for name in contest.SCALES[scale]}
    tasks, values = (
        {name: contest.task(name, scale) for name in kept},
        {name: contest_runs.values(it) for name, it in kept.items()},
    )
    found = {name: it for name in kept if (it := verdict.summary(tasks[name], values[name]))}
    if not found:
        return None
    aims, said, note = verdict.goals(found), sentences(found), still_missing(contest, scale, seeds)
    for name in found:
        it, n = tasks[name], span([len(runs) for cells in values[name].values() for runs in cells.values()])
        contest_drawing.task(panels(it, values[name]), folder / f"{name}.png", it.title, it.unit, it.higher,
                             f"Mean and range over {n} seeds; a triangle: beyond the picture, or diverged. MADA at its "
                             "defaults.")  # fmt: skip
    contest_drawing.against({tasks[name].title: distances(tasks[name], values[name]) for name in found},
                            folder / "cells.png", "MADA", "AdamW",
                            "A point per cell: learning rate, initial betas, schedule, decay. Means over seeds.")  # fmt: skip
    moved = {name: it for name in found if (it := contest_paths.paths(tasks[name], values[name], kept[name]))}
    contest_drawing.paths({tasks[name].title: it for name, it in moved.items()}, folder / "coefficients.png",
                          "MADA at AdamW's best rate: mean and range over seeds, a line per start (initial betas).")  # fmt: skip
    scale_note = "This scale shows that everything runs, and nothing else.\n\n" if scale == "smoke" else ""
    goal_lines = [[aim.what, aim.found, "met" if aim.met else "**not met**"] for aim in aims]
    (folder / "README.md").write_text(f"""# The contest: AdamW out, MADA in, nothing else changed ({scale})

{scale_note}{" ".join(said)} {note}

![every cell](cells.png)

## The goal that was set before, and what came of it

{markdown(["goal", "found", ""], goal_lines)}

## Task by task

{task_lines(found)}

{best_lines(found, values)}

## The other optimizers

{row_lines(values)}

AVGrad, Yogi, Adan and Lion are run from one start, and Adan and Lion with betas of their own, at rates that were chosen around
AdamW's best: Lion's lie some ten times lower.

## Where the coefficients go

![coefficients](coefficients.png)

{markdown(*contest_paths.agreement(moved))}

{contest_paths.HOW}

## How it is counted
{HOW}
{chr(10).join(f"![{tasks[name].title}]({name}.png)" + chr(10) for name in found)}
{conditions_of({name: kept[name] for name in found})}
Data: a line per run in TASK.jsonl beside this page; `python scripts/reproduce.py contest --scale {scale} --draw` makes the page
from them.
""")
    return {
        "verdict": said,
        "note": note,
        "goals": [aim._asdict() for aim in aims],
        "tasks": {name: numbers(it) for name, it in found.items()},
    }


def numbers(it: dict) -> dict:
    """Of a task's summary what goes into summary.json."""
    plain = (
        "below",
        "no_worse",
        "no_worse_1",
        "relative",
        "relative_error",
        "relative_median",
        "pairs",
        "failed",
        "saved",
    )
    best = {key: it[key] and {which: str(it[key][which]) for which in ("ours", "theirs")} | it[key]["gap"]._asdict()
            for key in ("start", "anywhere")}  # fmt: skip
    return {"cells": len(it["gaps"])} | {key: it[key] for key in plain} | best | {
        "worst": {"cell": str(it["worst"]), "excess": it["gaps"][it["worst"]].excess()},
        "damaged": len(it["undone"]), "level": it["level"],
        "undone": mean(it["undone"].values()) if it["undone"] else None,
    }  # fmt: skip
