"""The ablation's page, from what results/ holds: which part of MADA helps?"""

from pathlib import Path

from reproduce import ablation, contest_drawing, contest_runs, verdict
from reproduce.ablation import GROUPS, STARTS, TASKS
from reproduce.markdown import markdown
from reproduce.page_parts import conditions_of, share, span, still_missing

HOW = """
Each row is MADA with one thing changed, from the four starts in the heads of the columns and at two learning rates.
"Alone" and "none" leave the raw hyper-gradient at the paper's hyper-learning-rates (5e-4 for the betas, 1e-1 for the
rest), which are the defaults there. Relative gaps as on [the contest's page](../../contest/cpu/README.md): of a pair of
runs with the same seed the difference over the larger of the two, so that -1 and 1 are the ends; positive is worse. *to
MADA*: of the row to MADA as it is, mean over cells, then over seeds ± standard error; a row is *worse* or *better*
where that is more than two of them. *no worse than AdamW*: in how many cells, by the contest's rule. *failed*: pairs in
which the row ends at more than twice AdamW's loss. Where a row alone has a gap of 0 to AdamW from (0.99, 0.6), both
have learned nothing there: that coefficient by itself does not save the run.
"""


def to_mada(task, values: dict, row: str) -> tuple[float, float | None] | None:
    """The row's relative gap to MADA and its standard error."""
    pairs = verdict.pairs(task, values.get(row, {}), values.get("MADA", {}))
    return verdict.over_seeds(pairs) if pairs else None


def told(middle: float, error: float) -> str:
    """Whether a row is worse or better, by more than two standard errors; "" where neither."""
    return "" if abs(middle) <= 2 * error else "worse" if middle > 0 else "better"


def words(gap: tuple[float, float | None] | None) -> str:
    if gap is None:
        return "-"
    middle, error = gap
    if error is None:
        return f"{middle:+.3f} (one seed)"
    return ", ".join(filter(None, (f"{middle:+.3f} ± {error:.3f}", told(middle, error))))


def lines(task, values: dict, rows: list[str]) -> list[list]:
    """Counts, the gap to AdamW from each start, and the gap to MADA, for rows on a task."""
    found = []
    for row in rows:
        it = verdict.summary(task, values, row)
        if it is None and row != "AdamW":
            continue
        pairs = verdict.pairs(task, values[row], values["AdamW"])
        starts = [{key: gap for key, gap in pairs.items() if key[0].betas == betas} for betas in STARTS]
        to_adamw = [""] * (2 + len(STARTS))
        if row != "AdamW":
            to_adamw = [share(it["no_worse"], len(it["gaps"])), f"{it['failed']} of {it['pairs']}"]
            to_adamw += [f"{verdict.over_seeds(some)[0]:+.3f}" if some else "" for some in starts]
        found.append([row, *to_adamw, words(to_mada(task, values, row)) if row != "MADA" else ""])
    return found


def tables(values: dict, groups: list[str]) -> str:
    """Markdown of some groups of rows, a table per task; values: {task: its values}."""
    head = ["row", "no worse than AdamW", "failed", *(f"gap to AdamW from {betas}" for betas in STARTS), "gap to MADA"]
    rows = list(dict.fromkeys(["AdamW", "MADA", *(row for group in groups for row in GROUPS[group])]))
    return "\n\n".join(
        f"**{TASKS[name].title}**\n\n{markdown(head, lines(TASKS[name], it, rows))}" for name, it in values.items()
    )


def judged(values: dict, group: str) -> str:
    """A table of the rows of a group: the gap to MADA on each task, and whether it is worse or better."""
    rows = [row for row in GROUPS[group] if row not in ("AdamW", "MADA")]
    head = ["relative gap to MADA with its defaults", *(TASKS[name].title for name in values)]
    return markdown(
        head, [[row, *(words(to_mada(TASKS[name], it, row)) for name, it in values.items())] for row in rows]
    )


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md and the picture to folder. Returns what summary.json is to hold; None where there is nothing."""
    gathered, values = contest_runs.gathered(ablation, scale, seeds)
    values = {
        name: it
        for name, it in values.items()
        if any(verdict.summary(TASKS[name], it, row) for row in it if row not in ("AdamW", "MADA"))
    }
    if not values:
        return None
    gaps = {
        name: {row: gap for row in it if row != "MADA" and (gap := to_mada(TASKS[name], it, row))}
        for name, it in values.items()
    }
    n = span([len(runs) for it in values.values() for cells in it.values() for runs in cells.values()])
    contest_drawing.bars(
        {TASKS[name].title: it for name, it in gaps.items()},
        folder / "figure.png",
        "relative gap to MADA (positive: worse)",
        f"Mean over cells and {n} seeds, and two standard errors; a ring: one seed. "
        "From four starts at two learning rates.",
    )
    counts = {TASKS[name].title: max(len(cells) for cells in it.values()) for name, it in values.items()}
    ran = " and of ".join(f"{count} cells of {title}" for title, count in counts.items())
    sections = "\n\n".join(f"## {group}\n\n{tables(values, [group])}" for group in GROUPS)
    (folder / "README.md").write_text(f"""# Which part of MADA helps? ({scale})

{n} seeds of {ran}. {still_missing(ablation, gathered)}

![gaps to MADA](figure.png)

{sections}

## How it is counted
{HOW}
{conditions_of({name: gathered[name] for name in values})}
Data: a line per run in TASK.jsonl next to this page; \
`python scripts/reproduce.py ablation --scale {scale} --draw` makes the page
from them.
""")
    blocks = dict(zip(("corrections", "rates", "left_out", "alone", "cosine"), GROUPS, strict=True))
    return {
        "gap to MADA": {
            name: {row: dict(zip(("mean", "error"), gap, strict=True)) for row, gap in it.items()}
            for name, it in gaps.items()
        },
        "blocks": {key: judged(values, group) for key, group in blocks.items()},
    }
