"""Tables from what results/ holds, the paper's numbers next to ours: table.md, a picture of its gaps, and a summary.

A function that shows something takes name, scale, folder, runs, rest, draw, workers, seeds; writes table.md or
figure.png to folder and returns what summary.json is to hold, or None where there is nothing yet.
runs: {lineup: {label: {factor on the learning rate: [Ended, ...]}}}; rest: from experiments.NAMES; draw: run nothing.
figures.py has the figures.
"""

import json
import math
from pathlib import Path

from reproduce import ROOT, drawing, proportions, store
from reproduce.experiments import BASELINE, LINEUPS, NAMES, PROFILE
from reproduce.markdown import markdown
from reproduce.outcomes import best_of, conditions, digits_of, gap, headers, spread, text, whole
from reproduce.pool import load
from reproduce.published import PUBLISHED, rows_of

AFTER = (
    "Ours: mean ± standard deviation over n seeds at {whose} learning rate. "
    f"Gap: mean of the differences to {BASELINE} in the same seed ± its standard error, "
    "and in how many of the seeds it has that sign; "
    "it is called better or worse where it is more than two standard errors."
)
AUTHORS = (
    " rule=authors: what the released code computes, at MADA's hyper-learning-rates; "
    "under gradient accumulation that code's acted like a fifth of them."
)
BEST = (
    " Best lr: the best mean over these factors on that rate, of those with two seeds or more where no run diverged, "
    "over the seeds that these have in common; chosen by the very number that is shown, "
    "so that a row whose seeds differ much is judged by its worst. "
    "Highest, lowest: of those that were run, so that beyond it may lie a better one."
)


def table(title: str, note: str, head: list, lines: list[list], after: str) -> str:
    """The text of a table.md."""
    return "\n".join([note, "", f"# {title}", "", markdown(head, lines), "", after]).rstrip() + "\n"


def summarized(runs: dict, labels: tuple, columns: dict, lineup: str, published: dict) -> dict:
    """{label: {"paper": numbers, "ours": spreads by column, "gaps", "best_factor", "tuned", "grid"}} of a table's rows.

    columns: {heading: value of a run}; the first one is compared with BASELINE, and over the factors.
    """
    better, key = LINEUPS[lineup].better, next(iter(columns))
    at = {
        label: {
            factor: {name: spread({run.seed: value(run) for run in ended}) for name, value in columns.items()}
            for factor, ended in runs.get(label, {}).items()
        }
        for label in labels
    }
    best = {label: best_of(runs[label], columns[key], better) if label in runs else 1 for label in labels}

    def compared(label, factors, column):
        ours, base = (at.get(name, {}).get(factors[name], {}).get(column) for name in (label, BASELINE))
        found = gap(ours, base)
        return found and found._asdict() | {"clear": found.clear, "words": found.words(better, digits_of(key))}

    ones = dict.fromkeys([*labels, BASELINE], 1)
    return {
        label: {
            "paper": published.get(label, []),
            "ours": at[label].get(1, {}),
            "gaps": {name: compared(label, ones, name) for name in columns},
            "grid": {factor: it[key] for factor, it in sorted(at[label].items()) if it[key]["n"]},
            "best_factor": best[label],
            "tuned": compared(label, best, key),
        }
        for label in labels
    }


def best_rate(row: dict) -> str:
    """The best factor on the learning rate, and whether it is the highest or the lowest with two seeds or more."""
    best, factors = row["best_factor"], [factor for factor, it in row["grid"].items() if it["n"] > 1]
    end = {max(factors, default=best): " (highest)", min(factors, default=best): " (lowest)"}
    return f"x{best:g}" + end.get(best, "") * (len(factors) > 1)


def head_and_lines(rows: dict, columns: dict, spreads: bool, digits: int) -> tuple[list, list[list]]:
    """Head and lines of a table. spreads: the paper's numbers are a mean and a standard deviation."""

    def of_paper(row):
        if spreads and row["paper"]:
            return [" ± ".join(f"{number:.{digits}f}" for number in row["paper"])]
        return [f"{number:g}" for number in row["paper"]]

    key, width = next(iter(columns)), max(len(of_paper(row)) for row in rows.values())
    factors = sorted({factor for row in rows.values() for factor in row["grid"]} - {1})
    head, lines = ["optimizer"], []
    for i, name in enumerate(columns):
        head += [f"{name}: paper", "ours"] if i < width else [name]
    head += [f"paper's gap to {BASELINE}", "our gap"]
    head += [f"{key} at lr x{factor:g}" for factor in factors]
    head += ["best lr", "gap, each at its best lr"] if factors else []
    for label, row in rows.items():
        cells = [label]
        for i, name in enumerate(columns):
            cells += [*(of_paper(row) or ["-"] * width)[i : i + 1], text(row["ours"].get(name), digits)]
        both = label != BASELINE and row["paper"] and rows.get(BASELINE, {}).get("paper")
        cells += [f"{row['paper'][0] - both[0]:+.4g}" if both else ""]
        cells += [row["gaps"][key]["words"] if row["gaps"][key] else ""]
        cells += [text(row["grid"].get(factor), digits) for factor in factors]
        if factors:
            tuned = len(row["grid"]) > 1
            cells += [best_rate(row) * tuned, row["tuned"]["words"] if tuned and row["tuned"] else ""]
        lines.append([*cells, row["ours"].get(key, {}).get("n", 0)])
    return [*head, "n"], lines


def picture(rows: dict, runs: dict, lineup: str, key: str, path: Path, caption: str):
    """The gaps to Adam, and next to them the learning rates that were tried or the accuracy over epochs."""
    extra = []
    ours, theirs = {}, {}
    for label, row in rows.items():
        it, base = (each["ours"].get(key, {}).get("values", {}) for each in (row, rows[BASELINE]))
        if label != BASELINE:
            pairs = [value - base[seed] for seed, value in it.items() if seed in base]
            ours[label] = [value for value in pairs if math.isfinite(value)]
            if row["paper"] and rows[BASELINE]["paper"]:
                theirs[label] = row["paper"][0] - rows[BASELINE]["paper"][0]
    grid = {}
    for label, row in rows.items():
        if len(row["grid"]) > 1:
            each = {factor: it["values"].values() for factor, it in row["grid"].items() if it["mean"] is not None}
            grid[label] = {factor: [x for x in values if math.isfinite(x)] for factor, values in each.items()}
    if grid:
        extra.append(lambda ax: drawing.rates(ax, grid, key))
    if key == "accuracy":
        lines = {}
        for label in (label for label in rows if label in runs):
            found = [drawing.series(run.records, key) for run in whole(runs[label].get(1, []))]
            if found and (steps := found[0][0][4:]):  # before the fifth epoch all rise alike
                lines[label] = steps, [values[4:] for _, values in found]
        if lines:
            extra.append(lambda ax: drawing.lines(ax, lines, "test accuracy (%)"))
    drawing.gaps(ours, theirs, BASELINE, key, extra, path, caption)


def lineup_table(name: str, scale: str, lineup: str, runs: dict, rest: tuple, columns: dict, folder: Path) -> tuple:
    """The table of one lineup, and what summary.json says of it."""
    published = rows_of(name, lineup)
    labels = rest or tuple(LINEUPS[lineup].rows)
    labels = tuple(label for label in labels if label in runs or label in published or label == BASELINE)
    rows = summarized(runs, labels, columns, lineup, published)
    full, note = proportions.sentence(name, scale, lineup, labels)
    key = next(iter(columns))
    head, lines = head_and_lines(rows, columns, PUBLISHED[name].get("spread", False), digits_of(key))
    under = conditions(headers({label: runs[label] for label in labels if label in runs}))
    whose = proportions.whose_rate(lineup, scale)
    after = AFTER.format(whose=whose) + AUTHORS * any("authors" in label for label in labels)
    after += BEST * ("best lr" in head) + f"\n\n{under}"
    title = f"{name}{f', {lineup}' * (len(NAMES[name].lineups) > 1)}; the paper: {PUBLISHED[name]['what']}"
    several = f"figure-{lineup}.png" if len(NAMES[name].lineups) > 1 else "figure.png"
    caption = f"{BASELINE}'s difference to itself is 0; each row at {whose} learning rate. {note}"
    picture(rows, runs, lineup, key, folder / several, caption)
    summary = {"rows": rows, "columns": list(columns), "full_scale": full, "note": note, "conditions": under}
    summary["rates"], summary["ngrams"] = whose, store.ngram_losses(lineup, scale)
    return table(title, note, head, lines, after), summary


def shown(name: str, scale: str, folder: Path, runs: dict, rest: tuple, columns_of) -> dict | None:
    """The tables of a name's lineups, one after another. columns_of: lineup -> {heading: value of a run}."""
    parts, summary = [], {}
    for lineup, ended in runs.items():
        if ended:
            part, summary[lineup] = lineup_table(name, scale, lineup, ended, rest, columns_of(lineup), folder)
            parts.append(part)
        else:
            parts.append(f"{lineup}: nothing has been run at this scale.\n")
    if not summary:
        return None
    parts += [
        f"{lineup}: not a part of this scale; it has {', '.join(LINEUPS[lineup].scales)}.\n"
        for lineup in NAMES[name].lineups
        if lineup not in runs
    ]
    (folder / "table.md").write_text("\n".join(parts))
    return {"lineups": summary}


def losses(name: str, scale: str, folder: Path, runs: dict, rest: tuple, **_) -> dict | None:
    """Tables 2, 4 and 5: the last value of one key of the metrics."""

    def columns(lineup):
        key = LINEUPS[lineup].value
        found = {key.replace("_", " "): lambda run: run.value(key)}
        return found | ({"best epoch": lambda run: run.value("best_accuracy")} if key == "accuracy" else {})

    return shown(name, scale, folder, runs, rest, columns)


def perplexities(name: str, scale: str, folder: Path, runs: dict, rest: tuple, **_) -> dict | None:
    """Tables 3, 6 and 7: perplexities of the last checkpoints and, where the paper has it, the validation loss."""

    def column(kind):
        return lambda run: run.value("val_loss") if kind == "loss" else run.perplexity(kind)

    def columns(_):
        return {kind: column(kind) for kind in PUBLISHED[name]["columns"]}

    return shown(name, scale, folder, runs, rest, columns)


def unmeasured(scale: str, rest: dict, found: dict) -> dict[str, list]:
    """{row: [arguments of train.py, processes]} of the profile, of the rows that `found` lacks or has otherwise."""
    files, batches, ranks = PROFILE[scale]
    every = {
        f"{label}, {batch}" if batch else label: [[*arguments, *files, *settings], ranks]
        for batch, settings in batches.items()
        for label, arguments in rest.items()
    }
    return {row: how for row, how in every.items() if found.get(row, {}).get("settings") != how}


def profile(name: str, scale: str, folder: Path, draw: bool, rest: dict, **_) -> dict | None:
    """Appendix D: memory and time per iteration."""
    path = folder / "measured.json"
    found, published = json.loads(path.read_text()) if path.exists() else {}, PUBLISHED[name]["rows"]
    for row, how in unmeasured(scale, rest, found).items() if not draw else ():
        print(f"measuring {row}")
        script = load(str(ROOT / "scripts" / "measure.py"))
        found[row] = script.measure(*how, ROOT) | {"settings": how}
        path.write_text(json.dumps(found, indent=1) + "\n")
    if not found:
        return None
    full, note = proportions.sentence(name, scale)
    on_cpu = any("CPU" in it["device"] or "cores" in it["device"] for it in found.values())
    note += " Memory is the process's, Python and torch included." * on_cpu
    lines = []
    for label, it in found.items():
        paper = [f"{number:g}" for number in published[label]] if label in published else ["-", "-"]
        lines.append([label, *paper, f"{it['peak_gb']:.2f}", f"{it['seconds']:.3f}", it["steps"]])
    under = conditions([it | {"seconds": None} for it in found.values()])  # those are a step's, not a run's
    head = ["", "paper: GB", "paper: s per iteration", "ours: GB", "ours: s per iteration", "steps timed"]
    after = "Ours: peak memory of a process that does nothing else, "
    after += "and the median time of its steps after the first three."
    title = f"{name}: {PUBLISHED[name]['what']}"
    (folder / "table.md").write_text(table(title, note, head, lines, f"{after}\n\n{under}"))
    ours = {label: (it["peak_gb"], it["seconds"]) for label, it in found.items()}
    drawing.bars(ours, published, folder / "figure.png", note)
    return {"results": found, "full_scale": full, "note": note, "conditions": under}
