"""Muon's page, from what results/ holds: a table of values per task, and what it says of the question."""

from pathlib import Path
from statistics import mean, median

from reproduce import contest_runs, muon, verdict
from reproduce.markdown import markdown
from reproduce.muon import TASKS
from reproduce.page_parts import (
    CHANCE,
    at_edge,
    by_rates,
    conditions_of,
    goal_lines,
    judged,
    share,
    signed,
    span,
    still_missing,
)

MATRICES_ALONE = (
    "On the CNN Muon has the fully connected layers alone: convolutions stay with AdamW, since torch's Muon takes "
    "nothing but matrices."
)
FLATTENED = " MADA takes them too, as matrices (output channels, the rest). At each one's best rate, minus AdamW: {}."
OURS, RIVALS = "MADA from Muon's corner", ("Muon", "AdamW")
ADAMS = {"way to Muon from Adam's corner": "MADA from Adam's corner",
         "and with mu ten times as fast": "MADA from Adam's corner, mu ten times as fast"}  # fmt: skip


def gaps(values: dict[str, dict], rival: str) -> dict[tuple[str, float], verdict.Gap]:
    """{(task, rate): MADA from Muon's corner minus a rival, where both have two seeds or more}."""
    found = {(name, cell.rate): verdict.gap(TASKS[name], seeds, it[rival][cell]) for name, it in values.items()
             for cell, seeds in it.get(OURS, {}).items() if cell in it.get(rival, {})}  # fmt: skip
    return {at: gap for at, gap in found.items() if gap and gap.n > 1}


def no_worse(values: dict[str, dict], rival: str) -> tuple[int, int]:
    """In how many cells MADA from Muon's corner is no worse than a rival, and of how many."""
    found = gaps(values, rival).values()
    return sum(gap.no_worse() for gap in found), len(found)


def where_worse(values: dict[str, dict], rival: str) -> str:
    """The cells in which it is worse, in words."""
    return ", ".join(f"{signed(gap)} at {rate:g} on {name}" for (name, rate), gap in gaps(values, rival).items()
                     if not gap.no_worse()) or "nowhere"  # fmt: skip


def tuned(name: str, values: dict, rival: str, row: str = OURS) -> dict | None:
    """A row, which is MADA from Muon's corner, against a rival, each at its best rate: see verdict.tuned."""
    return verdict.tuned(TASKS[name], values.get(row, {}), values.get(rival, {}))


def at_best(found: dict | None) -> str:
    """What `tuned` has found, in words."""
    if not found:
        return "-"
    words = "" if found["gap"].n == 1 else f", {judged(found['gap'])}"
    return signed(found["gap"]) + words + at_edge(found)


def in_short(name: str, values: dict) -> str:
    """MADA from Muon's corner against AdamW, with what the front page needs to say of it."""
    found = tuned(name, values, "AdamW")
    seeds = f" ({found['gap'].n} seeds)" if found and found["gap"].n > 1 else ""
    points = " (points of test error)" * TASKS[name].higher
    return f"{TASKS[name].title}{points} {at_best(found)}{seeds}"


def shares(values: dict, row: str) -> list[float]:
    """Which share of the distance from AdamW to Muon a row goes, by their common seeds, where Muon is better."""
    rows, found = [values.get(each, {}) for each in (row, *RIVALS)], []
    for cell in rows[0]:
        if all(cell in it for it in rows) and (seeds := set.intersection(*({*it[cell]} for it in rows))):
            here, there, adam = (mean(it[cell][seed] for seed in seeds) for it in rows)
            if there < adam:
                found.append((adam - here) / (adam - there))
    return found


def way(values: dict, row: str) -> str:
    """The median of `shares`, in words."""
    found = shares(values, row)
    return f"{median(found):.0%} ({len(found)} rates)" if found else "-"


def better_than_both(name: str, values: dict) -> bool:
    """Whether MADA from Muon's corner is better than Muon and than AdamW, each at its best rate."""
    found = [tuned(name, values, rival) for rival in RIVALS]
    return all(it and it["gap"].clear and it["gap"].mean < 0 for it in found)


def convolutions(values: dict) -> str:
    """What came of Muon for the CNN's convolutions, in a sentence."""
    if muon.CONVOLUTIONS not in values:
        return ""
    return FLATTENED.format(at_best(tuned("cnn", values, "AdamW", muon.CONVOLUTIONS)))


def goals(values: dict[str, dict]) -> list[verdict.Goal]:
    """What was asked of Muon's corner, and what came of it."""
    counts = [(rival, *no_worse(values, rival)) for rival in RIVALS]
    both = sum(better_than_both(name, it) for name, it in values.items())
    ways = {
        row: {name: median(found) for name, it in values.items() if (found := shares(it, row))}
        for row in ADAMS.values()
    }
    slow, fast = (", ".join(f"{part:.0%} on {name}" for name, part in it.items()) or "not run" for it in ways.values())
    gone = ways[ADAMS["way to Muon from Adam's corner"]].values()
    return [
        *(verdict.Goal(f"no worse than {rival} in at least 95 % of the cells", share(fine, n), fine >= 0.95 * n)
          for rival, fine, n in counts if n),
        verdict.Goal("better than both on at least 2 tasks, each at its best rate", f"{both} of {len(values)}",
                     both > 1),
        verdict.Goal("from Adam's corner at least 80 % of the way to Muon", f"{slow}; with mu ten times as fast {fast}",
                     bool(gone) and min(gone) >= 0.8),
    ]  # fmt: skip


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md and pictures to folder. Returns what summary.json is to hold, or None where there is nothing."""
    gathered, values = contest_runs.gathered(muon, scale, seeds)
    values = {name: it for name, it in values.items() if OURS in it and it.keys() & {*RIVALS}}
    if not values:
        return None
    parts = []
    for name, it in values.items():
        heads = [f"rate {rate:g}" for rate in TASKS[name].rates]
        parts.append(by_rates(name, TASKS[name], it, folder, "learning rate, from betas (0.9, 0.95)", heads))
    counts = {rival: no_worse(values, rival) for rival in RIVALS}
    head = [
        "task",
        *(f"{OURS} minus {rival}, each at its best rate" for rival in RIVALS),
        *ADAMS,
    ]
    lines = [
        [
            TASKS[name].title,
            *(at_best(tuned(name, it, rival)) for rival in RIVALS),
            *(way(it, row) for row in ADAMS.values()),
        ]
        for name, it in values.items()
    ]
    said = " and ".join(f"no worse than {rival} in {share(*count)} cells" for rival, count in counts.items())
    counted = {name: [rate for task, rate in gaps(values, "AdamW") if task == name] for name in values}
    wide = [round(max(rates) / min(rates)) for rates in counted.values() if rates]
    sentence = (
        f"Started at Muon's corner, learning beta1, beta2 and mu, MADA is {said} (at most two paired standard errors "
        "or 0.5 %; at most 0.5 % where a seed of MADA ends at more than twice the other's loss; cells with two seeds "
        f"or more), at learning rates over a factor of {span(wide)}, on {len(wide)} "
        f"task{'s' * (len(wide) > 1)}. It is worse than "
        + "; than ".join(f"{rival}: {where_worse(values, rival)}" for rival in RIVALS)
        + "."
    )
    level = [found["gap"] for name, it in values.items() if (found := tuned(name, it, "Muon")) and found["gap"].n > 1]
    short = "At each one's best rate, MADA from Muon's corner minus AdamW (negative is better): "
    short += "; ".join(in_short(name, it) for name, it in values.items())
    short += f". Minus Muon: no clear difference on {sum(not gap.clear for gap in level)} of {len(level)} tasks. "
    short += f"Cell by cell it is {said}"
    aims, left = goals(values), still_missing(muon, gathered)
    notes = [f"{MATRICES_ALONE}{convolutions(values['cnn'])}"] if "cnn" in values else []
    block = "\n\n".join([sentence, markdown(head, lines), goal_lines(aims), *notes, left]).rstrip()
    (folder / "README.md").write_text(
        f"# Muon as a corner of MADA ({scale})\n\n{block}\n\n"
        + "\n\n".join(parts)
        + f"\n\n{CHANCE}\n\n{conditions_of(gathered)}\n"
    )
    return {
        "tasks": list(values),
        "no_worse": counts,
        "goals": [aim._asdict() for aim in aims],
        "blocks": {"muon, in short": f"{short}."},
    }
