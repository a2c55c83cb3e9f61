"""The replication's page: the contest's cells that look bad for MADA, and whole tasks, good or bad, in new seeds."""

from pathlib import Path

from reproduce import contest_runs, replication, verdict
from reproduce.contest import START
from reproduce.markdown import markdown
from reproduce.page_parts import bullets, conditions_of, judged, share, signed, span, still_missing
from reproduce.replication import ROWS, TASKS


def cell_of(gap: verdict.Gap) -> str:
    return f"{signed(gap)} ({100 * gap.share:+.1f} %)"


def show(scale: str, folder: Path, seeds: int | None = None) -> dict | None:
    """Write README.md to folder. Returns what summary.json is to hold; None where there is nothing."""
    gathered, values = contest_runs.gathered(replication, scale, seeds)
    lines, gaps, collapsed, whole, fine, missed = [], [], [], [], [], []
    for name, it in values.items():
        task, old = TASKS[name], replication.before(name, scale)
        if (new := verdict.summary(task, it)) is None:
            continue
        picked = replication.bad(old)
        for cell in [*picked, *(cell for cell in replication.bad(new["gaps"]) if cell not in picked)]:
            if cell in new["gaps"] and cell in old:
                gap, theirs = new["gaps"][cell], verdict.gap(task, *(it[row][cell] for row in ROWS))
                lines.append([task.title, cell, cell_of(old[cell]), cell_of(gap), gap.lost or "", theirs.lost or ""])
                if cell in picked:
                    gaps.append(gap)
                    collapsed.append((gap.lost, theirs.lost))
        tested, which = new, ""
        if name not in replication.WHOLE:
            plain = {row: verdict.over_rates(cells) for row, cells in it.items()}
            tested, which = verdict.summary(task, plain), f" from {START}"
        if tested:
            best, same = tested["start"] and tested["start"]["gap"], tested["replaced"]
            best = best and f"; each at its best rate from {START} {signed(best)}, {judged(best)}"
            same = same and f"; at AdamW's best rate {signed(same)}, {judged(same)}"
            cells = len(tested["gaps"])
            fine.append(
                f"{task.title}{which}: no worse in {share(tested['no_worse'], cells)} cells "
                f"(by more than two standard errors better in {tested['better']}, worse in {tested['worse']})"
            )
            missed += [task.title] * (tested["no_worse"] < 0.95 * cells)
            whole.append(
                f"{fine[-1]}, below AdamW in {tested['below']}; AdamW no worse in {tested['base_no_worse']}"
                f"{same or ''}{best or ''}. MADA alone collapses in {tested['failed']} of {tested['pairs']} pairs, "
                f"AdamW alone in {tested['saved']}."
            )
    if not (gaps or whole):
        return None
    said = "In no cell of the contest is MADA's mean more than 2 % above AdamW's, or it has not been run at this scale."
    if gaps:
        ours, theirs = map(sum, zip(*collapsed, strict=True))
        said = (
            f"The {len(gaps)} cells in which MADA's mean is more than 2 % above AdamW's were run again "
            f"with {span(sorted({gap.n for gap in gaps}))} new seeds. "
            f"It is again so in {sum(gap.share > verdict.FAR for gap in gaps)}, "
            f"and by more than two standard errors in {sum(gap.clear and gap.mean > 0 for gap in gaps)}. "
            f"Of these {sum(gap.n for gap in gaps)} pairs of runs MADA alone collapses in {ours}, "
            f"and AdamW alone in {theirs}."
        )
    if whole:
        said += f" All cells of the cheapest tasks, and of the other cheap ones those from {START}, were run again: "
        said += f"{'; '.join(fine)}. The goal of 95 % is {'missed on ' + '; '.join(missed) if missed else 'met'}."
    table = "The cells that look bad in the contest, or in the new seeds:\n\n" + markdown(
        ["task", "cell", "gap in the contest", "in the new seeds", "MADA alone collapses", "AdamW alone"], lines
    )
    blocks = "\n\n".join(filter(None, (said, bullets(whole), still_missing(replication, gathered), table)))
    title = f"The contest again, in new seeds: what looks bad for MADA, and whole tasks ({scale})"
    (folder / "README.md").write_text(f"""# {title}

{blocks}

Cells that are picked for their gaps look worse than they are; new seeds have no part in the choice, and twelve show
what three or five can miss. Everything else is as in [the contest](../../contest/{scale}/README.md), where it says how
gaps are counted.

{conditions_of(gathered)}
""")
    return {"cells": len(gaps), "gaps": [gap._asdict() for gap in gaps], "blocks": {"again": said}}
