"""The contest's cells that look bad for MADA, run again with new seeds: are they bad, or was it chance?

They are picked for their gaps, which are therefore too large on average; in new seeds they are not. Of the cheapest
tasks every cell is run again, good or bad, and of the others those from (0.9, 0.95).
"""

from reproduce import contest, contest_runs, verdict
from reproduce.contest import Cell, made
from reproduce.runs import FIRST_SEED, Run

FIRST = FIRST_SEED + max(it.seeds for it in contest.TASKS.values())
ROWS = ("AdamW", "MADA")
TASKS = {
    name: it._replace(seeds=FIRST - FIRST_SEED + 12, rows=ROWS) for name, it in contest.TASKS.items() if not it.costly
}
SCALES = {scale: tuple(name for name in names if name in TASKS) for scale, names in contest.SCALES.items()}
WHOLE = ("digits", "factorization", "acrobot")  # tasks that take a second: every cell is run again


def before(name: str, scale: str) -> dict[Cell, verdict.Gap]:
    """{cell: MADA minus AdamW} of a task in the contest."""
    found = contest_runs.gather(contest, scale, name).found
    found = verdict.summary(TASKS[name], contest_runs.values(found, TASKS[name]))
    return found["gaps"] if found else {}


def bad(gaps: dict[Cell, verdict.Gap]) -> list[Cell]:
    return [cell for cell, gap in gaps.items() if gap.share > verdict.FAR]


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task; seeds: how many, the contest's included, which are not run again."""
    cells = contest.cells(TASKS[name])["MADA"]
    if name not in WHOLE:
        cells = list(dict.fromkeys([*verdict.over_rates(dict.fromkeys(cells)), *bad(before(name, scale))]))
    every = made(TASKS[name], scale, seeds or TASKS[name].seeds, dict.fromkeys(ROWS, cells), contest.settings)
    return {(row, cell, seed): run for (row, cell, seed), run in every.items() if seed >= FIRST}
