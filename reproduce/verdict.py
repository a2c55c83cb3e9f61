"""What a contest says: a row against AdamW, cell by cell, over runs with the same seed. Numbers only.

values: {row: {cell: {seed: value}}} of a task, as contest_runs.values has them: none is worse than chance, so that a
run that ended at 1e11, or diverged, counts as having learned nothing. All gaps are signed so that positive is worse,
whatever the unit.
"""

from statistics import mean, median
from typing import NamedTuple

from reproduce.contest import START, Cell, Task
from reproduce.outcomes import best_mean, standard_error

ALLOWED = 0.005  # of AdamW's value: a gap that nobody would mind
FAR = 0.02  # of AdamW's value: a gap that is reported
CLIFF = 0.5  # relative gap beyond which one of a pair has failed: the other's loss is less than half of its


class Gap(NamedTuple):
    """A row minus AdamW in a cell, over the seeds that both have."""

    n: int
    base: float  # AdamW's mean
    mean: float
    error: float  # standard error of the mean; 0 for one seed
    lost: int  # seeds in which the row collapses and AdamW does not: it has learned nothing, or is beyond CLIFF

    @property
    def clear(self) -> bool:
        """Whether the rows differ: by more than two standard errors, over more than one seed."""
        return self.n > 1 and abs(self.mean) > 2 * self.error

    @property
    def share(self) -> float:
        """The mean as a share of AdamW's value."""
        return self.mean / abs(self.base)

    def allowed(self, errors: float) -> float:
        """This many standard errors, or ALLOWED where that is more or a seed is lost, which makes the errors grow."""
        return max(0.0 if self.lost else errors * self.error, ALLOWED * abs(self.base))

    def no_worse(self, errors: float = 2.0) -> bool:
        return self.mean <= self.allowed(errors)

    def excess(self) -> float:
        """How far the mean is beyond what `no_worse` allows, as a share of AdamW's value; 0 where it is not."""
        return max(0.0, self.mean - self.allowed(2.0)) / abs(self.base)


def difference(task: Task, ours: float, theirs: float) -> float:
    return theirs - ours if task.higher else ours - theirs


def relative(task: Task, ours: float, theirs: float) -> float:
    """The difference over the larger of the two sizes: from -1 to 1 for values of one sign."""
    return difference(task, ours, theirs) / max(abs(ours), abs(theirs), 1e-300)


def gap(task: Task, ours: dict[int, float], theirs: dict[int, float]) -> Gap | None:
    """ours, theirs: {seed: value}. None where they have no seed in common."""
    seeds = sorted({*ours} & {*theirs})
    if not seeds:
        return None
    pairs = [difference(task, ours[seed], theirs[seed]) for seed in seeds]

    def collapses(mine, other):
        return mine == task.chance != other or relative(task, mine, other) > CLIFF

    lost = sum(collapses(ours[seed], theirs[seed]) for seed in seeds)
    base = mean(theirs[seed] for seed in seeds)
    return Gap(len(seeds), base, mean(pairs), standard_error(pairs) or 0.0, lost)


def best(task: Task, cells: dict[Cell, dict[int, float]]) -> Cell | None:
    return best_mean(cells, "higher" if task.higher else "lower")


def over_rates(cells: dict[Cell, dict], betas: tuple | None = START) -> dict[Cell, dict]:
    """The cells from these betas (None: from any) where nothing but the rate is varied."""
    return {cell: it for cell, it in cells.items() if not cell.conditions and betas in (None, cell.betas)}


def tuned(task: Task, ours: dict, theirs: dict, betas: tuple | None = START) -> dict | None:
    """Each at its best rate from these betas (None: at its best rate and betas): {"ours": cell, "theirs": cell,
    "gap": Gap, "edge": whether either rate is the lowest or the highest that was run: a better one may lie beyond it}.

    The cells of both are chosen by the numbers that are shown.
    """
    rows = [over_rates(cells, betas) for cells in (ours, theirs)]
    found = [best(task, cells) for cells in rows]
    if None in found or (both := gap(task, ours[found[0]], theirs[found[1]])) is None:
        return None
    rates = [[cell.rate for cell in cells] for cells in rows]
    edge = any(cell.rate in (min(some), max(some)) for cell, some in zip(found, rates, strict=True))
    return {"ours": found[0], "theirs": found[1], "gap": both, "edge": edge}


def retuned_nothing(task: Task, ours: dict, theirs: dict) -> Gap | None:
    """The gap at the best rate of `theirs` from (0.9, 0.95): what somebody has who replaces a tuned AdamW."""
    at = best(task, over_rates(theirs))
    return gap(task, ours.get(at, {}), theirs[at]) if at else None


def undone(task: Task, ours: dict, theirs: dict) -> dict[Cell, float]:
    """{cell: share of the damage undone} where bad betas harm AdamW: from these betas it is worse than at the same rate
    from (0.9, 0.95), by the measure of Gap.no_worse. The share is
    1 - (ours - AdamW from (0.9, 0.95)) / (AdamW - AdamW from (0.9, 0.95)), clamped to [0, 1].
    """
    found = {}
    for cell, runs in ours.items():
        if cell.betas == START or cell.conditions:
            continue
        reference = theirs.get(Cell(cell.rate, START), {})
        harm = gap(task, theirs.get(cell, {}), reference)
        left = gap(task, runs, reference)
        if harm and left and min(harm.n, left.n) > 1 and not harm.no_worse():
            found[cell] = min(1.0, max(0.0, 1 - left.mean / harm.mean))
    return found


def pairs(task: Task, ours: dict, theirs: dict) -> dict[tuple[Cell, int], float]:
    """{(cell, seed): relative gap} of all pairs."""
    return {
        (cell, seed): relative(task, value, theirs[cell][seed])
        for cell, seeds in ours.items()
        for seed, value in seeds.items()
        if seed in theirs.get(cell, {})
    }


def over_seeds(pairs: dict[tuple[Cell, int], float]) -> tuple[float, float | None]:
    """The mean over the seeds of a seed's mean over its cells, and its standard error; None for one seed."""
    by_seed = {}
    for (_, seed), it in pairs.items():
        by_seed.setdefault(seed, []).append(it)
    means = [mean(some) for some in by_seed.values()]
    return mean(means), standard_error(means)


def summary(task: Task, values: dict, row: str = "MADA") -> dict | None:
    """A row against AdamW over the cells in which both have two seeds or more; None where there is none."""
    ours, theirs = values.get(row, {}), values.get("AdamW", {})
    every = {cell: it for cell, runs in ours.items() if (it := gap(task, runs, theirs.get(cell, {})))}
    gaps = {cell: it for cell, it in every.items() if it.n > 1}
    if not gaps:
        return None
    both = pairs(task, {cell: ours[cell] for cell in gaps}, theirs)
    middle, error = over_seeds(both)
    repaired = undone(task, {cell: ours[cell] for cell in gaps}, theirs)
    worst = max(gaps, key=lambda cell: (gaps[cell].excess(), mean(it for (at, _), it in both.items() if at == cell)))
    return {
        "gaps": gaps,
        "single": [cell for cell in every if cell not in gaps],  # with one seed: they do not count
        "seeds": sorted({it.n for it in gaps.values()}),
        "below": sum(it.mean < 0 for it in gaps.values()),
        "no_worse": sum(it.no_worse() for it in gaps.values()),
        "no_worse_1": sum(it.no_worse(1) for it in gaps.values()),
        "better": sum(it.clear and it.mean < 0 for it in gaps.values()),
        "worse": sum(it.clear and it.mean > 0 for it in gaps.values()),
        "base_no_worse": sum(gap(task, theirs[cell], ours[cell]).no_worse() for cell in gaps),
        "resolution": median(2 * it.error / abs(it.base) for it in gaps.values()),
        "relative": middle,
        "relative_error": error,
        "relative_median": median(both.values()),
        "pairs": len(both),
        "failed": sum(it > CLIFF for it in both.values()),
        "saved": sum(it < -CLIFF for it in both.values()),
        "worst": worst,
        "replaced": retuned_nothing(task, ours, theirs),
        "start": tuned(task, ours, theirs),
        "anywhere": tuned(task, ours, theirs, None),
        "undone": repaired,
        "level": sum(gap(task, ours[cell], theirs[Cell(cell.rate, START)]).no_worse() for cell in repaired),
    }


class Goal(NamedTuple):
    what: str
    found: str
    met: bool


def goals(summaries: dict[str, dict]) -> list[Goal]:
    """The contest's goals; summaries: {task: summary of MADA}."""
    cells = sum(len(it["gaps"]) for it in summaries.values())
    fine = sum(it["no_worse"] for it in summaries.values())
    most = max(gap.excess() for it in summaries.values() for gap in it["gaps"].values())
    tuned = [it["start"]["gap"] for it in summaries.values() if it["start"]]
    better = sum(it.mean < 0 and it.clear for it in tuned)
    shares = [share for it in summaries.values() for share in it["undone"].values()]
    undone = f"{100 * mean(shares):.0f} % in the mean of {len(shares)} cells" if shares else "no cell is damaged"
    return [
        Goal("MADA no worse than AdamW in at least 95 % of the cells", f"{fine} of {cells}", fine >= 0.95 * cells),
        Goal("no cell more than 2 % above AdamW beyond that", f"at most {100 * most:.1f} %", most <= 0.02),
        Goal(
            "better than AdamW on at least 3 tasks, each at its best rate from (0.9, 0.95)",
            f"{better} of {len(tuned)}, by more than two standard errors",
            better >= 3,
        ),
        Goal("at least 90 % of the damage of bad betas undone", undone, bool(shares) and mean(shares) >= 0.9),
    ]
