"""What the pages of the contest and its kin have in common: numbers in words, and parts of a page."""

import math
from pathlib import Path
from statistics import mean, stdev
from types import ModuleType

from reproduce import contest_drawing, contest_runs, verdict
from reproduce.contest import Task
from reproduce.markdown import markdown
from reproduce.outcomes import conditions

CHANCE = "A run that ends where one has learned nothing, or beyond, or that diverges, counts as having ended there."


def bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {it}" for it in sentences)


def share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.0f} %)"


def span(counts: list[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))


def signed(gap: verdict.Gap) -> str:
    """Mean ± standard error, to two digits of the error."""
    if gap.n == 1:
        return f"{gap.mean:+.2g} (one seed)"
    digits = max(0, 1 - math.floor(math.log10(gap.error))) if gap.error > 0 else 4
    return f"{gap.mean:+.{digits}f} ± {gap.error:.{digits}f}"


def judged(gap: verdict.Gap) -> str:
    return "no clear difference" if not gap.clear else "better" if gap.mean < 0 else "worse"


def at_edge(tuned: dict) -> str:
    return " (best rate at the edge of the grid)" * tuned["edge"]


def cell_of(seeds: dict[int, float]) -> str:
    """Mean ± standard deviation (n)."""
    spread = f" ± {stdev(seeds.values()):.2g}" if len(seeds) > 1 else ""
    return f"{mean(seeds.values()):.4g}{spread} ({len(seeds)})"


def goal_lines(goals: list[verdict.Goal]) -> str:
    return markdown(["goal", "found", ""], [[it.what, it.found, "met" if it.met else "**not met**"] for it in goals])


def still_missing(what: ModuleType, gathered: dict[str, contest_runs.Gathered]) -> str:
    """In words, what has not been run, and how many lines in results/ are of another version."""
    asked = list(what.ROWS)[:2]  # the rows that the question is about
    first, rest = {}, {}
    for name, it in gathered.items():
        for row, _, _ in it.left:
            part = first if row in asked else rest
            part[name] = part.get(name, 0) + 1
    said = [
        f"Still to be run of {rows}: {', '.join(f'{count} runs of {name}' for name, count in part.items())}."
        for rows, part in ((" and ".join(asked), first), ("the other rows", rest))
        if part
    ]
    if others := sum(it.others for it in gathered.values()):
        said.append(f"{others} runs of another version, or that are no longer asked for, are left out.")
    return " ".join(said)


def conditions_of(gathered: dict[str, contest_runs.Gathered]) -> str:
    """Hardware and versions."""
    every = [seeds for it in gathered.values() for cells in it.found.values() for seeds in cells.values()]
    return conditions([line for seeds in every for line in seeds.values()])


def by_rates(name: str, task: Task, values: dict, folder: Path, xlabel: str, heads: list[str]) -> str:
    """The section of a task whose rows have learning rates alone: a picture, which goes to `folder`, and a table.

    heads: of the columns, one for each of the task's rates. A row with a rate of its own stands in the first of them,
    and is not drawn.
    """
    found = {row: {cell.rate: seeds for cell, seeds in cells.items()} for row, cells in values.items()}
    drawn = {row: at for row, at in found.items() if at.keys() & {*task.rates}}
    curves = {row: {rate: list(seeds.values()) for rate, seeds in at.items()} for row, at in drawn.items()}
    caption = "Means over the seeds, and their range."
    contest_drawing.task({(xlabel, True): curves}, folder / f"{name}.png", task.title, task.unit, task.higher, caption)
    lines = []
    for row, at in found.items():
        cells = [cell_of(at[rate]) if rate in at else "-" for rate in task.rates]
        if row not in drawn:
            cells = [cell_of(*at.values()), *[""] * (len(cells) - 1)]
        lines.append([row, *cells])
    what = f"{task.unit}: mean ± standard deviation (seeds)"
    return f"## {task.title}\n\n{what}\n\n![{name}]({name}.png)\n\n{markdown(['row', *heads], lines)}"
