"""Where MADA's coefficients go: over time, from each start, and whether the starts agree at the end."""

from statistics import mean, stdev

from reproduce import contest, grid, verdict
from reproduce.contest import TASKS, Cell
from reproduce.drawing import SYMBOLS

HOW = (
    "At AdamW's best rate, at the end of the runs: mean over starts and seeds; "
    "then the standard deviation between the starts' means, in brackets what it was at the beginning where the starts "
    "differ; then the standard deviation over the seeds of a start, mean over the starts. "
    "Where the second number is much larger than the last, the starts do not agree: "
    "the coefficient remembers where it began; where there is one start, or one seed, there is a dash."
)


def best_rate(task: contest.Task, values: dict) -> float | None:
    """AdamW's best rate from (0.9, 0.95)."""
    found = verdict.best(task, verdict.over_rates(values.get("AdamW", {})))
    return found and found.rate


def paths(task: contest.Task, values: dict, found: dict) -> dict:
    """MADA's coefficients at AdamW's best rate, without the runs that diverged.

    {start: {coefficient: (% of the run, [values of a seed, ...])}}.
    """
    rate, starts = best_rate(task, values), {}
    for betas in contest.BETAS:
        runs = found.get("MADA", {}).get(Cell(rate, betas), {}).values()
        curves = [run["curve"] for run in runs if not run["diverged"]]
        if curves:
            percent = [100 * it / curves[0]["iter"][-1] for it in curves[0]["iter"]]
            start = f"({betas[0]:g}, {betas[1]:g})"
            first = grid.ADAM | {"beta1": betas[0], "beta2": betas[1]}
            starts[start] = {
                name: ([0, *percent], [[first[name], *curve[name]] for curve in curves]) for name in SYMBOLS
            }
    return starts


def spread(numbers: list[float]) -> float:
    return stdev(numbers) if len(numbers) > 1 else 0.0


def agreement(moved: dict) -> tuple[list, list[list]]:
    """Head and lines of a table; moved: {task: paths}."""
    table = []
    for task, starts in moved.items():
        line = [TASKS[task].title]
        for name in SYMBOLS:
            last = [[seed[-1] for seed in found[name][1]] for found in starts.values()]
            first = spread([found[name][1][0][0] for found in starts.values()])
            several = [stdev(some) for some in last if len(some) > 1]
            between = f"{spread([mean(some) for some in last]):.3f}" if len(last) > 1 else "-"
            within = f"{mean(several):.3f}" if several else "-"
            before = f" ({first:.3f})" * (first > 0)
            line.append(f"{mean(mean(some) for some in last):.3f}; {between}{before}; {within}")
        table.append(line)
    return ["task", *SYMBOLS], table
