"""The contest's tables and sentences, as Markdown, from the numbers of verdict.py."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from statistics import mean
from types import MappingProxyType

from reproduce import contest, store, verdict
from reproduce.contest import START, TASKS
from reproduce.markdown import markdown
from reproduce.page_parts import at_edge, judged, share, signed, span

# {n: the probability that Student's t of n pairs is above 2}; of more than 5 it is at most that of 5
BY_CHANCE = {2: 0.148, 3: 0.092, 4: 0.070, 5: 0.058}
# {n: Student's t of n pairs whose absolute value is above it with probability 5 %}; of more than 5 that of 5 is strict
STUDENTS = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
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


def in_the_same(task: contest.Task, values: dict, row: str, cells: Iterable[contest.Cell]) -> dict | None:
    """MADA against AdamW in these cells, over the seeds that the row has there too: see verdict.summary."""
    mada = values.get("MADA", {})
    ours = {
        cell: {seed: it for seed, it in mada[cell].items() if seed in values[row][cell]}
        for cell in cells
        if cell in mada
    }
    return verdict.summary(task, {"MADA": ours, "AdamW": values["AdamW"]})


def row_lines(values: dict) -> str:
    """All rows against AdamW, over all tasks that have them."""
    head = ["row", "tasks", "cells", "below AdamW", "no worse", "relative gap, mean of tasks", "MADA's in these cells"]
    head += [
        "MADA no worse in these",
        "failed",
        "better at its best rate, clearly",
        "worse, clearly",
        "best at an end of the rates on",
    ]
    lines = []
    for row in [*contest.ROWS, *contest.ONCE][1:]:
        summaries = {name: it for name in values if (it := verdict.summary(TASKS[name], values[name], row))}
        if summaries:
            n = sum(len(it["gaps"]) for it in summaries.values())
            best = [it["start"]["gap"] for it in summaries.values() if it["start"]]
            ends = [name for name, it in summaries.items() if it["start"] and it["start"]["edge"]]
            same = [in_the_same(TASKS[name], values[name], row, it["gaps"]) for name, it in summaries.items()]
            mada = [it for it in same if it]
            lines.append([
                row, len(summaries), n,
                *(share(sum(it[key] for it in summaries.values()), n) for key in ("below", "no_worse")),
                f"{mean(it['relative'] for it in summaries.values()):+.3f}",
                f"{mean(it['relative'] for it in mada):+.3f}" if mada else "-",
                share(sum(it["no_worse"] for it in mada), sum(len(it["gaps"]) for it in mada)) if mada else "-",
                sum(it["failed"] for it in summaries.values()),
                f"{sum(gap.mean < 0 and gap.clear for gap in best)} of {len(best)}",
                f"{sum(gap.mean > 0 and gap.clear for gap in best)} of {len(best)}", ", ".join(ends) or "none",
            ])  # fmt: skip
    return markdown(head, lines)


def front_lines(summaries: dict[str, dict]) -> str:
    """The short table: a line per task."""
    unit = "in loss, minus return or points of error (negative: MADA is better)"
    head = ["task", "cells, seeds", "MADA no worse", f"gap at AdamW's best rate, {unit}", "each at its own best rate"]
    head.append("damage of bad betas undone")
    lines = []
    for name, it in summaries.items():
        n, shares = len(it["gaps"]), it["undone"].values()
        same, best = (
            f"{signed(gap)} ({100 * gap.share:+.1f} %), {judged(gap)}" if gap else "-"
            for gap in (it["replaced"], it["start"] and it["start"]["gap"])
        )
        best += at_edge(it["start"]) if it["start"] else ""
        repaired = (
            f"{100 * mean(shares):.0f} % in {len(shares)} cell{'s' * (len(shares) > 1)}" if shares else no_damage(it)
        )
        lines.append([TASKS[name].title, f"{n}, {span(it['seeds'])}", share(it["no_worse"], n), same, best, repaired])
    return markdown(head, lines)


def sentences(summaries: dict[str, dict]) -> list[str]:
    """The verdict, computed, as the front page has it; details() goes on."""
    gaps = {(name, cell): gap for name, it in summaries.items() for cell, gap in it["gaps"].items()}
    seeds = [n for it in summaries.values() for n in it["seeds"]]
    replaced = [it["replaced"] for it in summaries.values() if it["replaced"]]
    rates = [it["start"]["gap"] for it in summaries.values() if it["start"]]
    parts = [part for it in summaries.values() for part in it["undone"].values()]
    small = sum(gap.mean + 2 * gap.error <= verdict.FAR * abs(gap.base) for gap in gaps.values())
    damage = "There is no damage by bad initial betas to undo."
    if parts:
        level = sum(it["level"] for it in summaries.values())
        damage = f"It **undoes {100 * mean(parts):.0f} % of what bad initial betas cost AdamW**: in {level} of "
        damage += f"{len(parts)} such cells it ends level with AdamW from (0.9, 0.95)."
    worst, cell = max(gaps, key=lambda at: gaps[at].excess())
    gap, end = gaps[worst, cell], "In no cell is it worse than that."
    if gap.excess():
        end = f"In the worst cell it ends {100 * gap.share:.0f} % worse than AdamW: {TASKS[worst].title}, {cell}"
        end += f", where {gap.lost} of {gap.n} seeds collapse{'s' * (gap.lost == 1)}." if gap.lost else "."
    return [
        (
            f"MADA is **no worse in {no_worse_in(gaps.values())}** of {len(summaries)} task{'s' * (len(summaries) > 1)}"
            f", with {span(seeds)} seeds each; AdamW is no worse than MADA in "
            f"{sum(it['base_no_worse'] for it in summaries.values())}. By this rule an optimizer exactly as good as "
            f"AdamW would be no worse in about {len(gaps) - by_chance(gaps.values()):.0f}. In "
            f"{share(small, len(gaps))} cells the runs rule out that MADA is more than 2 % worse."
        ),
        (
            f"By more than two standard errors, it is **better in {clear(gaps.values(), -1)} cells and worse in "
            f"{clear(gaps.values(), 1)}**; chance alone would make an equal better in about "
            f"{by_chance(gaps.values()):.0f}, and worse in as many."
        ),
        (
            "At AdamW's best learning rate from betas (0.9, 0.95), with nothing retuned, it is better by more than "
            f"two standard errors on {clear(replaced, -1)} of {len(replaced)} tasks and worse on "
            f"{clear(replaced, 1)}; with each one at its own best rate, on {clear(rates, -1)} and {clear(rates, 1)}."
        ),
        damage,
        end,
    ]


def no_worse_in(gaps: Collection[verdict.Gap]) -> str:
    return f"{share(sum(gap.no_worse() for gap in gaps), len(gaps))} cells" if gaps else "0 cells"


def clear(gaps: Iterable[verdict.Gap], sign: int, errors: Mapping[int, float] = MappingProxyType({})) -> int:
    """How many are better (sign -1) or worse (1) by more than two standard errors, or than `errors` of them: by n."""
    return sum(gap.n > 1 and gap.mean * sign > errors.get(min(gap.n, 5), 2) * gap.error for gap in gaps)


def by_chance(gaps: Iterable[verdict.Gap]) -> float:
    """How many of two equals would be better than the other by more than two standard errors."""
    return sum(BY_CHANCE[min(gap.n, 5)] for gap in gaps if gap.n > 1)


def details(summaries: dict[str, dict]) -> list[str]:
    """What the page has to say beyond the verdict."""
    every = {(name, cell): gap for name, it in summaries.items() for cell, gap in it["gaps"].items()}
    plain = [gap for (_, cell), gap in every.items() if cell.betas == START]
    others = [gap for (name, _), gap in every.items() if name != contest.CHOSEN_ON]
    betas = [it["anywhere"]["gap"] for it in summaries.values() if it["anywhere"]]
    undone = {(name, cell): part for name, it in summaries.items() for cell, part in it["undone"].items()}
    rest = [part for (_, cell), part in undone.items() if cell.betas[0] != 0.99]
    gaps = [*every.values()]
    below, above = (sum(gap.share * sign > verdict.FAR for gap in gaps) for sign in (-1, 1))
    tuned = {name: it["start"]["gap"] for name, it in summaries.items() if it["start"]}

    def named(sign):
        tasks = [name for name, gap in tuned.items() if clear([gap], sign)]
        return ", ".join(name + at_edge(summaries[name]["start"]) for name in tasks) or "none"

    return [
        (
            f"From betas (0.9, 0.95) alone, it is no worse in {no_worse_in(plain)}, and by more than two standard "
            f"errors better in {clear(plain, -1)} and worse in {clear(plain, 1)}. Without the task on which its "
            f"defaults were chosen, it is no worse in {no_worse_in(others)}."
        ),
        (
            f"By Student's t at 5 % it is better in {clear(gaps, -1, STUDENTS)} cells and worse in "
            f"{clear(gaps, 1, STUDENTS)}, and at each one's best rate on {clear(tuned.values(), -1, STUDENTS)} and "
            f"{clear(tuned.values(), 1, STUDENTS)} tasks. The cells of a task share seeds and data, so they are not "
            "independent."
        ),
        (
            f"At each one's best rate and betas, it is better by more than two standard errors on {clear(betas, -1)} "
            f"tasks and worse on {clear(betas, 1)}."
        ),
        f"Of {len(undone)} cells with bad initial betas beta1 starts at 0.99 in {len(undone) - len(rest)}"
        + (f"; in the other {len(rest)} MADA undoes {100 * mean(rest):.0f} % of the damage." if rest else "."),
        (
            f"Its mean is lower in {share(sum(gap.mean < 0 for gap in gaps), len(gaps))} cells, more than 2 % lower in "
            f"{below}, and more than 2 % higher in {above}."
        ),
        (
            f"Better at each one's best rate: {named(-1)}; worse: {named(1)}. If the two were equal, chance alone "
            f"would make MADA better on about {by_chance(tuned.values()):.1f} tasks, and worse on as many."
        ),
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
