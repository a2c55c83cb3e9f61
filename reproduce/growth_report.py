"""The growing rate's page, from results/: what too small a rate costs, and what growth does to a good one."""

from fractions import Fraction
from pathlib import Path

from reproduce import contest_runs, growth, verdict
from reproduce.contest import START, Cell
from reproduce.growth import FRACTIONS, TASKS
from reproduce.markdown import markdown
from reproduce.page_parts import CHANCE, bullets, by_rates, conditions_of, still_missing

AGAINST = (  # a row, another, whether that is at the row's rate where this is AdamW's best or more, and in words
    ("MADA, growing rate", "MADA", True, "MADA itself, not growing, at AdamW's best rate or at twice that"),
    ("MADA from Muon's corner, growing rate", "AdamW", False, "AdamW at its best rate"),
    ("MADA from Muon's corner, growing rate", "MADA from Muon's corner", True,
     "the same corner, not growing, at AdamW's best rate or at twice that"),
    ("MADA from Muon's corner, growing rate (hyper_lr 1)", "AdamW", False, "AdamW at its best rate"),
    ("MADA from Muon's corner, growing rate (hyper_lr 1)", "MADA from Muon's corner", True,
     "the same corner, not growing, at AdamW's best rate or at twice that"),
)  # fmt: skip
GOAL = 0.02  # of the loss: what a rate that is too small may cost
CHOSEN = (
    "hyper_lr 0.3 was chosen on digits, matrix completion and Shakespeare, with two of the seeds that are shown here; "
    "1 from Muon's corner on the 0.1M GPT on Shakespeare, with one of them. On CartPole and Acrobot at AdamW's best "
    "rate and above, rounding decides where a run ends: on another CPU the same runs differ by more than the growth "
    "does ([there](../../stop_growth/README.md)). Prodigy and schedule-free AdamW are run by scripts/train_small.py "
    "alone, and so on no GPT."
)
PARTS = tuple(str(Fraction(part)) for part in FRACTIONS)


def costs(name: str, values: dict, row: str, other: str, follows: bool) -> dict[float, verdict.Gap]:
    """{fraction of AdamW's best rate: the row minus another at AdamW's best rate, over the seeds}.

    follows: the other is at twice that rate where the row is.
    """
    found, rates = {}, dict(zip(FRACTIONS, TASKS[name].rates, strict=True))
    for fraction, rate in rates.items():
        at = max(fraction, 1) if follows else 1
        ours, theirs = (values.get(key, {}).get(Cell(r, START), {}) for key, r in ((row, rate), (other, rates[at])))
        both = verdict.gap(TASKS[name], ours, theirs)
        if both:
            found[fraction] = both
    return found


def said(gap: verdict.Gap | None) -> str:
    """Percent of the reference's value ± standard error, and whether it meets the goal by its mean and beyond doubt."""
    if gap is None:
        return "-"
    mean, error = (100 * x / abs(gap.base) for x in (gap.mean, gap.error))
    if gap.n == 1:
        return f"{mean:+.1f} % (one seed)"
    if mean - 2 * error > 100 * GOAL:
        word = "too much"
    elif mean + 2 * error <= 100 * GOAL:
        word = "within 2 %"
    else:
        word = "unclear"
    digits = 0 if error >= 10 else 1
    return f"{mean:+.{digits}f} % ± {error:.{digits}f}, {word}"


def counted(found: dict[str, dict[float, verdict.Gap]]) -> str:
    """In words: how many cells cost at most the goal in the mean, and how many are beyond it by two errors."""
    gaps = [gap for each in found.values() for gap in each.values()]
    fine = sum(gap.mean <= GOAL * abs(gap.base) for gap in gaps)
    bad = sum(gap.mean - 2 * gap.error > GOAL * abs(gap.base) for gap in gaps)
    cells = f"{fine} of {len(gaps)} cells"
    return f"costs at most 2 % in the mean in {cells}, and more than that by two standard errors in {bad}"


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md and pictures to folder. Returns what summary.json is to hold, or None where there is nothing."""
    gathered, values = contest_runs.gathered(growth, scale, seeds)
    values = {name: it for name, it in values.items() if it.keys() & {row for row, *_ in AGAINST}}
    if not values:
        return None
    parts, blocks, counts, summary = [], [], [], {}
    for name, it in values.items():
        rates = zip(PARTS, TASKS[name].rates, strict=True)
        heads = [f"{part} x AdamW's best ({rate:g})" for part, rate in rates]
        parts.append(by_rates(name, TASKS[name], it, folder, "learning rate that is given", heads))
    for row, other, follows, words in AGAINST:
        each = {name: gaps for name, it in values.items() if (gaps := costs(name, it, row, other, follows))}
        if not each:
            continue
        lines = [[TASKS[name].title, *(said(gaps.get(part)) for part in FRACTIONS)] for name, gaps in each.items()]
        head = ["task", *(f"rate {part} x AdamW's best" for part in PARTS)]
        counts.append(f"**{row}**, against {words}: it {counted(each)}.")
        blocks.append(f"{counts[-1]}\n\n{markdown(head, lines)}")
        summary[f"{row}, against {other}"] = {
            name: {str(part): gap._asdict() for part, gap in gaps.items()} for name, gaps in each.items()
        }
    (folder / "README.md").write_text(
        f"# A learning rate that only grows ({scale})\n\n"
        + "\n\n".join([*blocks, still_missing(growth, gathered)]).rstrip()
        + "\n\n"
        + "\n\n".join(parts)
        + f"\n\n{CHANCE} {CHOSEN}\n\n"
        + f"{conditions_of(gathered)}\n"
    )
    return {"tasks": list(values), "costs": summary, "blocks": {"growth": bullets(counts)}}
