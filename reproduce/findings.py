"""What each result says of the paper's claim: a verdict by a stated criterion, and sentences with computed numbers.

A claim is a list of checks on the summary of a name at a scale. It holds if all of them do; where they compare seeds, a
difference counts if it is more than two paired standard errors (outcomes.Gap.clear). table_findings.py and
figure_findings.py read the summaries; nothing in them is typed that data could say.
"""

from typing import NamedTuple


class Finding(NamedTuple):
    paper: str  # in a few words
    ours: str  # likewise
    checks: dict[str, bool]  # what must hold for the claim to hold, and whether it does
    sentences: list[str]


def verdict(found: Finding | None, full_scale: bool) -> str:
    """In words. full_scale: whether the proportions are the paper's own."""
    if found is None:
        return "not run"
    if all(found.checks.values()):
        return "reproduced" if full_scale else "holds at reduced scale"
    return "not reproduced" if full_scale else "not reproduced at this scale"


def listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words) or "none"
