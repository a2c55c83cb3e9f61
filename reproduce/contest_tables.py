"""The contest's tables and sentences, as Markdown, from the numbers of verdict.py."""

import json
import math
from statistics import mean

from reproduce import contest, store, verdict
from reproduce.contest import START, TASKS
from reproduce.markdown import markdown
from reproduce.page_parts import at_edge, judged, share, signed, span

# {n: the probability that Student's t of n pairs is above 2}; of more than 5 it is at most that of 5
BY_CHANCE = {2: 0.148, 3: 0.092, 4: 0.070, 5: 0.058}
SHOWN = 30  # cells that speak against MADA, at most


def no_damage(it: dict) -> str:
    """Why there is no damage to undo."""
    if any(cell.betas != START for cell in it["gaps"]):
        return "no cell is damaged"
    return "one seed only" if any(cell.betas != START for cell in it["single"]) else "bad betas not run"


def undone(it: dict) -> str:
    if not it["undone"]:
        return no_damage(it)
    return f"{100 * mean(it['undone'].values()):.0f} %; level in {it['level']} of {len(it['undone'])}"


def task_lines(summaries: dict[str, dict]) -> str:
    """A line per task, and one for all."""
    head = ["task", "cells", "seeds", "MADA below", "no worse", "at one error", "two errors", "relative gap, mean"]
    head += ["median", "failed: AdamW, MADA", "worst cell", "damage undone"]
    counted = ("below", "no_worse", "no_worse_1")
    lines = []
    for name, it in summaries.items():
        worst, n = it["gaps"][it["worst"]], len(it["gaps"])
        error = "" if it["relative_error"] is None else f" ± {it['relative_error']:.3f}"
        over = f"{100 * worst.excess():.1f} % beyond" if worst.excess() else "none beyond"
        lines.append([
            TASKS[name].title, n, span(it["seeds"]),
            *(share(it[key], n) for key in counted), f"{100 * it['resolution']:.2g} %",
            f"{it['relative']:+.3f}{error}", f"{it['relative_median']:+.4f}",
            f"{it['saved']}, {it['failed']} of {it['pairs']}",
            f"{over}: {it['worst']}, {signed(worst)}", undone(it),
        ])  # fmt: skip
    if len(summaries) > 1:
        n = sum(len(it["gaps"]) for it in summaries.values())
        total = {
            key: sum(it[key] for it in summaries.values()) for key in (*counted, "saved", "failed", "pairs", "level")
        }
        shares = {(name, cell): value for name, it in summaries.items() for cell, value in it["undone"].items()}
        errors = [it["relative_error"] for it in summaries.values()]  # the tasks' runs are independent
        error = "" if None in errors else f" ± {math.hypot(*errors) / len(errors):.3f}"
        lines.append([
            "**all**", n, "",
            *(share(total[key], n) for key in counted), "",
            f"{mean(it['relative'] for it in summaries.values()):+.3f}{error}", "",
            f"{total['saved']}, {total['failed']} of {total['pairs']}",
            "", undone({"undone": shares, "level": total["level"]}),
        ])  # fmt: skip
    return markdown(head, lines)


def best_lines(summaries: dict[str, dict]) -> str:
    """Means of AdamW and MADA, each at its best rate from (0.9, 0.95), and each at its best rate and betas."""
    head = ["task", "value", "AdamW, best rate", "MADA, best rate", "gap"]
    head += ["AdamW, best of all", "MADA, best of all", "gap"]
    lines = []
    for name, it in summaries.items():
        cells = [TASKS[name].title, TASKS[name].unit]
        for key in ("start", "anywhere"):
            if it[key] is None:
                cells += ["-", "-", "-"]
                continue
            gap = it[key]["gap"]
            mada = gap.base + gap.mean * (-1 if TASKS[name].higher else 1)
            for value, which in ((gap.base, "theirs"), (mada, "ours")):
                cell = it[key][which]
                cells.append(f"{value:.4g} at {cell.rate:g}" + f", {cell.betas}" * (key == "anywhere"))
            cells.append(f"{signed(gap)}, {judged(gap)} (n = {gap.n}){at_edge(it[key])}")
        lines.append(cells)
    return markdown(head, lines)


def in_the_same(task: contest.Task, values: dict, row: str, cells) -> dict[tuple[contest.Cell, int], float]:
    """MADA's relative gaps to AdamW in these cells, over the seeds that the row has there too."""
    mada = values.get("MADA", {})
    ours = {
        cell: {seed: it for seed, it in mada[cell].items() if seed in values[row][cell]}
        for cell in cells
        if cell in mada
    }
    return verdict.pairs(task, ours, values["AdamW"])


def row_lines(values: dict) -> str:
    """All rows against AdamW, over all tasks that have them."""
    head = ["row", "tasks", "cells", "below AdamW", "no worse", "relative gap, mean of tasks", "MADA's in these cells"]
    head += ["failed", "better at its best rate, clearly", "worse, clearly", "best at an end of the rates on"]
    lines = []
    for row in [*contest.ROWS, *contest.ONCE][1:]:
        summaries = {name: it for name in values if (it := verdict.summary(TASKS[name], values[name], row))}
        if summaries:
            n = sum(len(it["gaps"]) for it in summaries.values())
            best = [it["start"]["gap"] for it in summaries.values() if it["start"]]
            ends = [name for name, it in summaries.items() if it["start"] and it["start"]["edge"]]
            same = [in_the_same(TASKS[name], values[name], row, it["gaps"]) for name, it in summaries.items()]
            mada = [verdict.over_seeds(it)[0] for it in same if it]
            lines.append([
                row, len(summaries), n,
                *(share(sum(it[key] for it in summaries.values()), n) for key in ("below", "no_worse")),
                f"{mean(it['relative'] for it in summaries.values()):+.3f}", f"{mean(mada):+.3f}" if mada else "-",
                sum(it["failed"] for it in summaries.values()),
                f"{sum(gap.mean < 0 and gap.clear for gap in best)} of {len(best)}",
                f"{sum(gap.mean > 0 and gap.clear for gap in best)} of {len(best)}", ", ".join(ends) or "none",
            ])  # fmt: skip
    return markdown(head, lines)


def front_lines(summaries: dict[str, dict]) -> str:
    """The short table: a line per task."""
    head = ["task", "cells, seeds", "MADA no worse", "gap at each one's best rate", "damage of bad betas undone"]
    lines = []
    for name, it in summaries.items():
        n, shares, best = len(it["gaps"]), it["undone"].values(), "-"
        if it["start"]:
            gap = it["start"]["gap"]
            best = f"{signed(gap)} ({100 * gap.share:+.1f} %), {judged(gap)}{at_edge(it['start'])}"
        repaired = (
            f"{100 * mean(shares):.0f} % in {len(shares)} cell{'s' * (len(shares) > 1)}" if shares else no_damage(it)
        )
        lines.append([TASKS[name].title, f"{n}, {span(it['seeds'])}", share(it["no_worse"], n), best, repaired])
    return markdown(head, lines)


def sentences(summaries: dict[str, dict]) -> list[str]:
    """The verdict, computed."""
    n = sum(len(it["gaps"]) for it in summaries.values())
    seeds = sorted({n for it in summaries.values() for n in it["seeds"]})
    fine, below, theirs = (sum(it[key] for it in summaries.values()) for key in ("no_worse", "below", "base_no_worse"))
    best = {name: it["start"]["gap"] for name, it in summaries.items() if it["start"]}
    better, worse = ([name for name, gap in best.items() if gap.clear and gap.mean * sign < 0] for sign in (1, -1))
    gaps = [gap for it in summaries.values() for gap in it["gaps"].values()]
    told = [sum(it[key] for it in summaries.values()) for key in ("better", "worse")]
    far = [sum(gap.share * sign > verdict.FAR for gap in gaps) for sign in (-1, 1)]
    small = sum(gap.mean + 2 * gap.error <= verdict.FAR * abs(gap.base) for gap in gaps)
    by_chance = sum(BY_CHANCE[min(gap.n, 5)] for gap in gaps)

    def named(tasks):
        return (": " + ", ".join(name + at_edge(summaries[name]["start"]) for name in tasks)) * bool(tasks)

    lucky = sum(BY_CHANCE[min(gap.n, 5)] for gap in best.values() if gap.n > 1)
    shares = {(name, cell): it for name, each in summaries.items() for cell, it in each["undone"].items()}
    level = sum(it["level"] for it in summaries.values())
    worst = max(summaries, key=lambda name: summaries[name]["gaps"][summaries[name]["worst"]].excess())
    gap = summaries[worst]["gaps"][summaries[worst]["worst"]]
    excess = gap.excess()
    end = "No cell is beyond that."
    if excess:
        end = f"The worst cell is {100 * excess:.1f} % beyond that: {worst} ({summaries[worst]['worst']})"
        end += f", where {gap.lost} of {gap.n} seeds collapse{'s' * (gap.lost == 1)}." if gap.lost else "."
    damage = "There is no damage by bad initial betas to undo."
    if shares:
        damage = (
            f"MADA **undoes {100 * mean(shares.values()):.0f} % of what bad initial betas cost AdamW**; "
            f"in {level} of {len(shares)} such cells it ends level with AdamW from (0.9, 0.95)."
        )
    chance = "If the two were equal, chance alone would make either one better"
    return [
        (
            f"MADA is **no worse in {share(fine, n)} cells** of {len(summaries)} task{'s' * (len(summaries) > 1)}, "
            f"with {span(seeds)} seeds each. {end} AdamW is no worse than MADA in {share(theirs, n)}."
        ),
        (
            f"By more than two standard errors MADA is **better in {told[0]} cells and worse in {told[1]}**. "
            f"{chance} in about {by_chance:.0f}. Its mean is lower in {share(below, n)} cells, "
            f"more than 2 % lower in {far[0]}, and more than 2 % higher in {far[1]}."
        ),
        (
            f"In {share(small, n)} cells the runs rule out, at two standard errors, that MADA is more than 2 % worse. "
            "In the others it is worse, or there are too few seeds to tell."
        ),
        (
            "At each one's best learning rate from betas (0.9, 0.95), MADA is better by more than two standard errors "
            f"on {len(better)} of {len(best)} tasks{named(better)}; and worse on {len(worse)}{named(worse)}. "
            f"{chance} on about {lucky:.1f}."
        ),
        damage,
    ]


def against(summaries: dict[str, dict]) -> str:
    """The cells that speak against MADA: its mean is over 2 % above AdamW's, or over one standard error and 0.5 %."""
    worse = [
        (name, cell, gap)
        for name, it in summaries.items()
        for cell, gap in it["gaps"].items()
        if not gap.no_worse(1) or gap.share > verdict.FAR
    ]
    worse.sort(key=lambda it: -it[2].share)
    cells = sum(len(it["gaps"]) for it in summaries.values())
    failed = ", ".join(f"{it['failed']} of {it['pairs']} on {name}" for name, it in summaries.items() if it["failed"])
    said = "Pairs in which MADA collapses (more than twice AdamW's loss, or less than half its return): "
    said += f"{failed or 'none'}. "
    what = "its mean is above AdamW's by more than 2 %, or by more than one standard error and half a percent"
    if not worse:
        return said + f"In no cell {what}."
    said += f"Cells in which {what}: {len(worse)} of {cells}"
    said += f"; the {SHOWN} worst:" if len(worse) > SHOWN else ":"
    rows = []
    for name, cell, gap in worse[:SHOWN]:
        numbers = f"{gap.base:.4g}", f"{signed(gap)} (n = {gap.n})", f"{100 * gap.share:+.1f} %"
        rows.append([TASKS[name].title, cell, *numbers, gap.lost or ""])
    return said + "\n\n" + markdown(["task", "cell", "AdamW", "gap", "as a share", "seeds that collapse"], rows)


def convex(scale: str) -> str:
    """Where MADA with its defaults ends on Figure 9's convex problem, from results/fig9."""
    row = "MADA, defaults of optim/"
    for path in store.home("convex", scale).glob("*.jsonl"):
        last = json.loads(path.read_text().splitlines()[-1])
        if row in last["x"]:
            x, rho = last["x"][row], last["rho"][row]
            word = "reaches" if x < -0.9 else "does not reach"
            return (
                f"On Figure 9's convex problem, where x = -1 is best and Adam ends at {last['x']['Adam']:.2f}, "
                f"MADA with its defaults from Adam's corner {word} it: x = {x:.2f} after {last['iter']:,} steps, "
                f"with rho at {rho:.2f}."
            )
    command = f"python scripts/reproduce.py fig9 --scale {scale}"
    return f"Figure 9's convex problem with the default settings: `{command}` has not been run."


def numbers(it: dict) -> dict:
    """The part of a task's summary that goes into summary.json."""
    plain = ("below", "no_worse", "no_worse_1", "relative", "relative_error", "relative_median")
    plain += ("pairs", "failed", "saved")

    def best(tuned):
        return tuned and {which: str(tuned[which]) for which in ("ours", "theirs")} | tuned["gap"]._asdict()

    return {
        "cells": len(it["gaps"]),
        **{key: it[key] for key in plain},
        **{key: best(it[key]) for key in ("start", "anywhere")},
        "worst": {"cell": str(it["worst"]), "excess": it["gaps"][it["worst"]].excess()},
        "damaged": len(it["undone"]),
        "level": it["level"],
        "undone": mean(it["undone"].values()) if it["undone"] else None,
    }
