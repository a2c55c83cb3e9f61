"""Questions that the paper does not ask, the contest among them: run what is missing; show what results/ holds."""

import json
from pathlib import Path

from reproduce import (
    ROOT,
    ablation,
    ablation_report,
    contest,
    contest_report,
    contest_runs,
    growth,
    growth_report,
    muon,
    muon_report,
    replication,
    replication_report,
    store,
)
from settings import UserError

NAMES = {  # {name: (which runs there are, what shows them)}
    "contest": (contest, contest_report.show),
    "ablation": (ablation, ablation_report.show),
    "muon": (muon, muon_report.show),
    "growth": (growth, growth_report.show),
    "replication": (replication, replication_report.show),
}
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))  # which show parts of the pages in results/


def fill(page: Path, command: str, blocks: dict[str, str]):
    """Put blocks of text between the lines of a page that name them and the command they come from."""
    before = text = page.read_text()
    for key, block in blocks.items():
        start, end = f"<!-- {key}: made by `{command} --draw` -->\n", f"<!-- end of {key} -->"
        head, found, rest = text.partition(start)
        if found:
            if end not in rest:
                raise UserError(f"{page}: {start.strip()} has no {end} after it")
            text = f"{head}{start}{block}\n{end}{rest.partition(end)[2]}"
    if text != before:
        page.write_text(text)


def claim(name: str) -> str:
    """The question, in a line."""
    return NAMES[name][0].__doc__.splitlines()[0]


def scales(name: str) -> list[str]:
    return list(NAMES[name][0].SCALES)


def chosen(name: str, scale: str, task: str | None) -> tuple[str, ...]:
    """The tasks of a name at a scale, or only the one given. Raises UserError."""
    tasks = NAMES[name][0].SCALES[scale]
    if task is not None and task not in tasks:
        raise UserError(f"{name} has no task {task!r} at scale {scale}; it has {', '.join(tasks)}")
    return (task,) if task else tasks


def estimate(name: str, scale: str, seeds: int | None, task: str | None) -> tuple[int, int, float | None]:
    """How many runs there are, how many are missing, and the seconds of one worker for these. Raises UserError."""
    return contest_runs.estimate(NAMES[name][0], scale, chosen(name, scale, task), seeds)


def reproduce(name: str, scale: str, seeds: int | None, workers: int | None, draw: bool, task: str | None) -> list[str]:
    """laboratory.reproduce() for these names. Returns the errors of runs that failed. Raises UserError."""
    what, show = NAMES[name]
    tasks, folder = chosen(name, scale, task), store.RESULTS / name / scale
    failed = [] if draw else contest_runs.perform(what, scale, tasks, seeds, workers)
    for each in tasks:  # what has ended here, or was started elsewhere
        contest_runs.collect(what, scale, each, what.runs(each, scale, seeds))
    folder.mkdir(parents=True, exist_ok=True)
    summary = show(scale, folder, seeds)
    if summary is None:
        print(f"{name} {scale}: nothing has been run yet")
        return failed
    command = f"python scripts/reproduce.py {name} --scale {scale}"
    for page in PAGES:
        fill(page, command, summary["blocks"])
    summary = {key: it for key, it in summary.items() if key != "blocks"}
    head = {"name": name, "scale": scale, "command": command}
    (folder / "summary.json").write_text(json.dumps(head | summary, indent=1) + "\n")
    store.say(folder)
    return failed
