"""The contest's page: verdict, goals, tables and pictures, from what results/ holds."""

from pathlib import Path
from statistics import mean

from reproduce import contest, contest_drawing, contest_paths, contest_runs, store, verdict
from reproduce.contest import START, TASKS
from reproduce.contest_tables import (
    against,
    best_lines,
    convex,
    details,
    front_lines,
    numbers,
    row_lines,
    sentences,
    task_lines,
)
from reproduce.markdown import markdown
from reproduce.page_parts import bullets, conditions_of, goal_lines, span, still_missing

HOW = """
A cell is a task, a learning rate, initial betas and, for some, a schedule and a weight decay, or no clipping. MADA and
AdamW are compared in pairs of runs with the same seed: the same initial weights, batches, schedule, decay and clipping.
MADA's settings are its defaults in every run; they were chosen on the 0.1M GPT on Shakespeare, and not touched since.
Gaps are signed so that positive is worse than AdamW.

- *no worse*: the mean paired gap is at most two standard errors, or at most 0.5 % of AdamW's value; and at most 0.5 %
  where MADA collapses in a seed and AdamW does not, whatever the errors, since one such seed makes them as large as the
  gap. *Collapses*: ends at more than twice AdamW's loss, at less than half its return, or at chance. *At one error*:
  the same with one. *below*: the mean gap is negative. Only cells with two seeds or more count. *two errors*: what two
  standard errors are in the median cell, as a share of AdamW's value: how large a gap can go unseen there.
- *chance*: a run that ends where one ends that has learned nothing (CHANCE), or beyond, or that diverges, counts as
  having ended there; else AdamW's 1e11 in some cells would be all that there is to see.
- *relative gap*: of a pair, the difference over the larger of the two, so that it lies between -1 and 1 where the signs
  agree. Mean over the cells of a seed, then mean over the seeds ± its standard error; and the median over all pairs.
- *failed*: pairs in which one ends at more than twice the other's loss (a relative gap beyond 0.5), AdamW's or MADA's.
- *worst cell*: where the mean gap most exceeds what *no worse* allows, as a share of AdamW's value; where none does,
  the largest relative gap.
- *damage undone*: of cells in which other betas make AdamW worse than it is from (0.9, 0.95) at the same rate (by the
  measure of *no worse*): 1 - (MADA - AdamW from (0.9, 0.95)) / (AdamW - AdamW from (0.9, 0.95)), cut to lie in [0, 1],
  and the mean of that. *Level*: in how many of them MADA, from the bad betas, is no worse than AdamW from the good
  ones; it is the harder measure, since undoing nearly all of a divergence may still leave a bad run.
- *no clipping*: these cells were added after the first verdict, and count on the MLP and the 0.1M GPT. On matrix
  completion, CartPole and Acrobot gradients are hardly ever as long as the norm that clips, 1, so that a run without
  clipping is the same run up to the CPU's rounding (on one CPU, bit for bit in 163 of 164 pairs). Those 15 cells had
  been counted for a while, and were dropped: in them MADA was no worse in 13, better by two errors in 4 and worse in 1.
  Rounding alone changes 28 of their 50 returns on CartPole and 11 of 50 on Acrobot by more than 1 %: there, runs with
  equal seeds are hardly pairs.
- *best rates*: the rate, or the rate and the betas, with the best mean of each, chosen by the very numbers that are
  shown, over the seeds that all of them have.
"""


def panels(task: contest.Task, values: dict) -> dict:
    """The panels of contest_drawing.task, from a task's values."""

    def picked(choose, name, least=1):
        every = {
            row: {name(cell): list(runs.values()) for cell, runs in cells.items() if choose(cell)}
            for row, cells in values.items()
        }
        return {row: at for row, at in every.items() if len(at) >= least}

    def conditions_in(cell):
        varied = dict(cell.conditions)
        return "no\nclipping" if "grad_clip" in varied else "\n".join(map(str, varied.values())) or "cosine\n0.0"

    plain = picked(lambda cell: cell.betas == START and not cell.conditions, lambda cell: cell.rate)
    shown = {("learning rate, from betas (0.9, 0.95)", True): plain}
    best = contest_paths.best_rate(task, values)
    if best:
        rows = picked(
            lambda cell: cell.rate == best and not cell.conditions,
            lambda cell: f"{cell.betas[0]:g},\n{cell.betas[1]:g}",
            least=2,
        )
        if rows:
            shown[f"initial betas, at AdamW's best rate {best:g}", False] = rows
        rows = picked(lambda cell: cell.rate == best and cell.betas == START, conditions_in, least=2)
        if rows:
            shown["schedule and weight decay, clipping, at that rate", False] = rows
    return shown


def distances(task: contest.Task, values: dict) -> list[tuple[float, float]]:
    """How far AdamW's and MADA's means in each cell are above the best of all these means, as a share of it."""
    means = {row: {cell: mean(it.values()) for cell, it in values.get(row, {}).items()} for row in ("AdamW", "MADA")}
    every = [value for cells in means.values() for value in cells.values()]
    best = max(every) if task.higher else min(every)

    def above(value):
        return abs(value - best) / abs(best)

    adamw, mada = means["AdamW"], means["MADA"]
    return [(above(adamw[cell]), above(value)) for cell, value in mada.items() if cell in adamw]


def unfinished(gathered: dict[str, contest_runs.Gathered]) -> str:
    """For the front page: the tasks on which AdamW and MADA have not been compared in full."""
    left = [TASKS[name].title for name, it in gathered.items() if {"AdamW", "MADA"} & {row for row, *_ in it.left}]
    return f"Planned and not run in full yet: {'; '.join(left)}." if left else ""


def front(summaries: dict, values: dict, moved: dict, folder: Path):
    """front.png: AdamW and MADA over learning rates, from good and bad betas, and how the coefficients move."""
    name = next((name for name in ("openwebtext", *moved) if name in moved), None)  # not where defaults were chosen
    if name is None:
        return
    it, both = TASKS[name], {row: values[name][row] for row in ("AdamW", "MADA")}

    def over_rates(cells, betas):
        return {cell.rate: list(runs.values()) for cell, runs in verdict.over_rates(cells, betas).items()}

    starts = {
        f"from betas {betas}": {row: over_rates(cells, betas) for row, cells in both.items()}
        for betas in (START, (0.99, 0.9))
    }
    n = span([len(runs) for cells in both.values() for runs in cells.values()])
    contest_drawing.front(
        {title: rows for title, rows in starts.items() if all(rows.values())},
        moved[name]["(0.9, 0.95)"],
        folder / "front.png",
        it.unit,
        it.higher,
        f"{it.title}: mean and range over {n} seeds; a triangle: beyond the picture. "
        f"{len(summaries)} tasks: results/contest.",
    )


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md and the pictures to folder. Returns what summary.json is to hold; None where there is nothing."""
    gathered, values = contest_runs.gathered(contest, scale, seeds)
    summaries = {name: it for name in gathered if (it := verdict.summary(TASKS[name], values[name]))}
    if not summaries:
        return None
    aims, said, note = verdict.goals(summaries), sentences(summaries), still_missing(contest, gathered)
    for name in summaries:
        it, n = TASKS[name], span([len(runs) for cells in values[name].values() for runs in cells.values()])
        caption = f"Mean and range over {n} seeds; a triangle: beyond the picture. MADA at its defaults."
        shown = panels(it, values[name])
        contest_drawing.task(shown, folder / f"{name}.png", it.title, it.unit, it.higher, caption)
    contest_drawing.against(
        {TASKS[name].title: distances(TASKS[name], values[name]) for name in summaries},
        folder / "cells.png",
        "A point per cell: learning rate, initial betas, schedule, decay. Means over seeds.",
    )
    moved = {
        name: it for name in summaries if (it := contest_paths.paths(TASKS[name], values[name], gathered[name].found))
    }
    contest_drawing.paths(
        {TASKS[name].title: it for name, it in moved.items()},
        folder / "coefficients.png",
        "MADA at AdamW's best rate: mean and range over seeds, a line per start (initial betas).",
    )
    front(summaries, values, moved, folder)
    scale_note = "This scale shows that everything runs, and nothing else.\n\n" if scale == "smoke" else ""
    chance = ", ".join(f"{TASKS[name].chance:.4g} on {name}" for name in summaries)
    coefficients = f"{contest_paths.HOW}\n\n{markdown(*contest_paths.agreement(moved))}"
    page = Path("replication", scale, "README.md")
    again = f"[The worst of these in new seeds](../../{page})." if (store.RESULTS / page).exists() else ""
    (folder / "README.md").write_text(f"""# The contest: AdamW out, MADA in, nothing else changed ({scale})

{scale_note}{bullets([*said, *details(summaries)])}

{note}

{front_lines(summaries)}

![every cell](cells.png)

## The goals, and what came of them

{goal_lines(aims)}

## What speaks against MADA

{against(summaries)}

{again}

{convex(scale)}

## Task by task

{task_lines(summaries)}

{best_lines(summaries)}

## The other optimizers

{row_lines(values)}

AVGrad, Yogi, Adan and Lion are run from one start, and Adan and Lion with betas of their own, \
at rates that were chosen around
AdamW's best: Lion's lie some ten times lower. \
beta3 and gamma are fixed in a row of their own because they cost something on digits near the
best rate; that was seen in other seeds ([replication](../../replication/cpu/README.md)). \
Where the rate is too small or the betas are bad, they help.

## Where the coefficients go

![coefficients](coefficients.png)

{coefficients}

## How it is counted
{HOW.replace("CHANCE", chance)}
{chr(10).join(f"![{TASKS[name].title}]({name}.png)" + chr(10) for name in summaries)}
{conditions_of({name: gathered[name] for name in summaries})}
Data: a line per run in TASK.jsonl next to this page; `python scripts/reproduce.py contest --scale {scale} --draw` makes
the page from them.
""")
    return {
        "verdict": said,
        "note": note,
        "goals": [aim._asdict() for aim in aims],
        "tasks": {name: numbers(it) for name, it in summaries.items()},
        "blocks": {
            "verdict": f"{bullets(said)}\n\n{front_lines(summaries)}\n\n{unfinished(gathered)}".rstrip(),
            "convex": convex(scale),
        },
    }
