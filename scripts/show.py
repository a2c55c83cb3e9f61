"""Tables from what results/ holds, the paper's numbers beside ours; figures.py has the figures. For reproduce.py.

A function that shows something takes name, scale, folder, runs, rest, draw, workers, seeds; writes table.md or figure.png
to folder and returns what summary.json is to say, or None where there is nothing yet. runs: {contest: {label: {factor on the
learning rate: [Ended, ...]}}}; rest: from NAMES in config/reproduce.py; draw: nothing may be run. Of what it returns,
results/README.md shows "paper" and "ours", two lists of a few words, "n", and "conditions".
"""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from measure import measure

from config.reproduce import CONTESTS, NAMES, PROFILE

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "results" / "paper"
PUBLISHED = json.loads((PAPER / "tables.json").read_text())


class Ended(NamedTuple):
    seed: int
    header: dict
    records: list
    evaluation: dict  # {data set: {"perplexity": ...}}

    def value(self, key):
        """The last one of the metrics; NaN of a run that diverged."""
        values = [record[key] for record in self.records if key in record]
        return math.nan if self.header.get("diverged") or not values else values[-1]

    def perplexity(self, name):
        """None where it was not taken; NaN of a run that diverged."""
        return math.nan if self.header.get("diverged") else self.evaluation.get(name, {}).get("perplexity")


def read(path):
    """A run's file in results/ -> header, records."""
    header, *records = map(json.loads, path.read_text().splitlines())
    return header, records


def spread(values):
    """Of the finite ones of {seed: value}, without None: {"n", "diverged", "mean", "sd", "values"}."""
    values = {seed: value for seed, value in values.items() if value is not None}
    good = [value for value in values.values() if math.isfinite(value)]
    middle, sd = (mean(good) if good else None), (stdev(good) if len(good) > 1 else None)
    return {"n": len(values), "diverged": len(values) - len(good), "mean": middle, "sd": sd, "values": values}


def text(it, digits):
    if it is None or it["mean"] is None:
        return "diverged" if it and it["n"] else "-"
    sd = "" if it["sd"] is None else f" ± {it['sd']:.{digits}f}"
    return f"{it['mean']:.{digits}f}{sd}" + f" ({it['diverged']} diverged)" * (it["diverged"] > 0)


def gap(it, baseline, better, digits):
    """The difference to the baseline in words, and as a number: with both spreads it is one, or it is not.

    Runs with the same seed have the same initial weights and batches, so it also counts in how many seeds it has its sign.
    """
    if not it or not baseline or it is baseline or None in (it["mean"], baseline["mean"]):
        return "", None
    difference = it["mean"] - baseline["mean"]
    if None in (it["sd"], baseline["sd"]):
        return f"{difference:+.{digits}f} (one seed)", difference
    noise = math.hypot(it["sd"], baseline["sd"])
    word = "better" if (difference < 0) == (better == "lower") else "worse"
    word = "within the spread" if abs(difference) <= noise else word
    pairs = [(value, baseline["values"][seed]) for seed, value in it["values"].items() if seed in baseline["values"]]
    same = sum((a - b) * difference > 0 for a, b in pairs)
    return f"{difference:+.{digits}f}, {word} ({same}/{len(pairs)} seeds)", difference


def best_of(factors, value, better):
    """The factor on the learning rate with the best mean, of those with as many seeds as factor 1, none of which diverged."""
    found = {factor: spread({run.seed: value(run) for run in runs}) for factor, runs in factors.items()}
    n = found[1]["n"] if 1 in found else 0
    means = {factor: it["mean"] for factor, it in found.items() if it["n"] >= max(n, 1) and not it["diverged"]}
    return (min if better == "lower" else max)(means, key=means.get) if means else 1


def first_line(contests, scale):
    """How this scale is reduced, as the first line of a table."""
    notes = [note for contest in contests if (note := CONTESTS[contest].scales[scale].note)]
    return "\n".join(dict.fromkeys(notes)) or f"Full scale: the paper's setting ({scale})."


def headers(runs):
    """The first lines of the metrics of {label: {factor: [Ended, ...]}}."""
    return [run.header for factors in runs.values() for ended in factors.values() for run in ended]


def conditions(headers):
    """Hardware, versions, data and time of runs, from their headers, as a sentence."""

    def some(key):
        return list(dict.fromkeys(str(header[key]) for header in headers if header.get(key) is not None))

    seconds = [header["seconds"] for header in headers if header.get("seconds")]
    data = dict.fromkeys(header["data"]["source"] for header in headers if "data" in header)
    words = [f"{len(headers)} run{'s' * (len(headers) > 1)} on {' or '.join(some('device'))}"]
    if threads := some("cpu_threads"):
        words.append(f"CPU threads: {', '.join(threads)}")
    if seconds:
        words.append(f"{mean(seconds):.0f} s{' each' * (len(seconds) > 1)}")
    words += [f"torch {', '.join(some('torch'))}", f"commit {', '.join(git[:7] + git[40:] for git in some('git'))}"]
    return ", ".join(words) + "." + f" Data: {'; '.join(data)}." * bool(data)


def table(title, note, head, lines, after):
    """The text of a table.md."""
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *lines)]
    return "\n".join([note, "", f"# {title}", "", *rows, "", after]).rstrip() + "\n"


def contest_rows(runs, contest, labels, columns, published, spreads, digits):
    """Head and lines of a table, and their summary. columns: {heading: value of a run}.

    published: {label: [number by column]}, or with `spreads` {label: [mean, standard deviation of the first]}. The first
    column is the one that is compared: with the contest's baseline, and over factors on the learning rate.
    """

    def cells_of(label):
        numbers = published.get(label, [])
        if spreads and numbers:
            return [" ± ".join(f"{number:.{digits}f}" for number in numbers)]
        return [f"{number:g}" for number in numbers]

    better, baseline, lines = CONTESTS[contest].better, CONTESTS[contest].baseline, []
    at = {
        label: {
            factor: {name: spread({run.seed: value(run) for run in ended}) for name, value in columns.items()}
            for factor, ended in runs.get(label, {}).items()
        }
        for label in labels
    }
    key = next(iter(columns))
    best = {label: best_of(runs[label], columns[key], better) if label in runs else 1 for label in labels}
    factors = sorted({factor for found in at.values() for factor, it in found.items() if it[key]["n"]} - {1})
    width = max(len(cells_of(label)) for label in labels)  # columns that the paper has
    rows, claimed = {}, next((label for label in labels if label.startswith("MADA")), None)
    for label in labels:
        ours, tuned = at[label].get(1, {}), at[label].get(best[label], {})
        base, base_tuned = at.get(baseline, {}).get(1, {}), at.get(baseline, {}).get(best.get(baseline), {})
        words, difference = gap(ours.get(key), base.get(key), better, digits)
        tuned_words, _ = gap(tuned.get(key), base_tuned.get(key), better, digits)
        paper = published.get(label, [])
        theirs = None
        if paper and baseline in published and label != baseline:
            theirs = paper[0] - published[baseline][0]
        cells, numbers = [label], cells_of(label)
        for i, name in enumerate(columns):
            cells += [*(numbers or ["-"] * width)[i : i + 1], text(ours.get(name), digits)]
        cells += ["" if theirs is None else f"{theirs:+.4g}", words]
        if factors:
            cells += [text(at[label].get(factor, {}).get(key), digits) for factor in factors]
            cells += [f"x{best[label]:g}", tuned_words] if len(at[label]) > 1 else ["", ""]
        lines.append([*cells, ours.get(key, {}).get("n", 0)])
        rows[label] = {
            "paper": paper,
            "ours": ours,
            "gap_to_baseline": difference,
            "paper_gap": theirs,
            "best_factor": best[label],
            "tuned": tuned,
        }
    head = ["optimizer"]
    for i, name in enumerate(columns):
        head += [f"{name}: paper", "ours"] if i < width else [name]
    head += [f"paper's gap to {baseline}", "our gap"]
    if factors:
        head += [f"{key} at lr x{factor:g}" for factor in factors] + [
            "best lr",
            f"gap to {baseline}, each at its best lr",
        ]
    shown, counts = [label for label in (claimed, baseline) if label in labels], [line[-1] for line in lines]
    short = {
        "paper": [f"{label} {cells_of(label)[0]}" for label in shown if label in published],
        "ours": [f"{label} {text(at[label].get(1, {}).get(key), digits)}" for label in shown]
        + [cells[head.index("our gap")] for cells in lines if cells[0] == claimed],
        "n": "-".join(map(str, sorted({min(counts), max(counts)}))),
    }
    if factors:
        short["ours"] += [f"each at its best lr: {cells[-2]}" for cells in lines if cells[0] == claimed and cells[-2]]
    return [*head, "n"], lines, {"rows": rows} | short


AFTER = (
    "Ours: mean ± standard deviation over n seeds at the paper's learning rate. Gap: difference of means, and in how many "
    'of the seeds it has that sign; "within the spread" where it is not larger than both standard deviations together '
    "(root of the sum of squares)."
)
AUTHORS = (
    " rule=authors: what the released code computes, at the paper's hyper-learning-rates; under gradient accumulation "
    "that code's acted like a fifth of them."
)
BEST = (
    " Best lr: the best mean over these factors on that rate, of those where no run diverged, chosen by the very number "
    "that is shown."
)


def contest_table(name, scale, contest, ended, rest, columns, digits):
    """The table of one contest, and what summary.json says of it."""
    published = PUBLISHED[name].get(contest) or PUBLISHED[name]["rows"]
    spreads = PUBLISHED[name].get("spread", False)  # each number is followed by its standard deviation
    labels = rest or tuple(CONTESTS[contest].rows)
    head, lines, summary = contest_rows(ended, contest, labels, columns, published, spreads, digits)
    summary["conditions"] = conditions(headers({label: ended[label] for label in labels if label in ended}))
    after = AFTER + AUTHORS * any("authors" in label for label in labels) + BEST * ("best lr" in head)
    after += f"\n\n{summary['conditions']}"
    title = f"{name}{f', {contest}' * (len(NAMES[name][1]) > 1)}; the paper: {PUBLISHED[name]['what']}"
    return table(title, first_line([contest], scale), head, lines, after), summary


def losses(name, scale, folder, runs, rest, **_):
    """Tables 2, 4 and 5: the last value of one key of the metrics."""
    parts, summary = [], {}
    for contest, ended in runs.items():
        key = CONTESTS[contest].value
        digits = 2 if key == "accuracy" else 4
        columns = {key.replace("_", " "): lambda run, key=key: run.value(key)}
        if key == "accuracy":
            columns["best epoch"] = lambda run: run.value("best_accuracy")
        if not ended:
            parts.append(f"{contest}: nothing has been run at this scale.\n")
        else:
            shown, summary[contest] = contest_table(name, scale, contest, ended, rest, columns, digits)
            parts.append(shown)
    if not summary:
        return None
    parts += [
        f"{contest}: not a part of this scale; it has {', '.join(CONTESTS[contest].scales)}.\n"
        for contest in NAMES[name][1]
        if contest not in runs
    ]
    (folder / "table.md").write_text("\n".join(parts))
    return joined(name, summary)


def perplexities(name, scale, folder, runs, rest, **_):
    """Tables 3, 6 and 7: perplexities of the last checkpoints, and where the paper has it the validation loss."""
    ((contest, ended),) = runs.items()
    if not ended:
        return None
    columns = {
        kind: (lambda run: run.value("val_loss")) if kind == "loss" else (lambda run, kind=kind: run.perplexity(kind))
        for kind in PUBLISHED[name]["columns"]
    }
    shown, summary = contest_table(name, scale, contest, ended, rest, columns, 4)
    (folder / "table.md").write_text(shown)
    return joined(name, {contest: summary})


def joined(name, summaries):
    """The summaries of a table's contests as one."""
    parts = summaries.values()
    return {
        "source": PUBLISHED[name]["source"],
        "claim": PUBLISHED[name]["what"],
        "results": {contest: part["rows"] for contest, part in summaries.items()},
        "paper": [word for part in parts for word in part["paper"]],
        "ours": [word for part in parts for word in part["ours"]],
        "n": " and ".join(str(part["n"]) for part in parts),
        "conditions": " ".join(part["conditions"] for part in parts),
    }


def profile(name, scale, folder, draw, rest, **_):
    """Appendix D: memory and time per iteration."""
    note, files, batches, ranks = PROFILE[scale]
    path = folder / "measured.json"
    found, published = json.loads(path.read_text()) if path.exists() else {}, PUBLISHED[name]["rows"]
    for batch, settings in batches.items() if not draw else ():
        for label, arguments in rest.items():
            key, what = f"{label}, {batch}" if batch else label, [*arguments, *files, *settings]
            if found.get(key, {}).get("settings") != [what, ranks]:
                print(f"measuring {key}")
                found[key] = measure(what, ranks) | {"settings": [what, ranks]}
                path.write_text(json.dumps(found, indent=1) + "\n")
    if not found:
        return None
    theirs = {label: [f"{gigabytes} GB", f"{seconds} s"] for label, (gigabytes, seconds) in published.items()}
    ours = {label: [f"{it['peak_gb']:.2f} GB", f"{it['seconds']:.3f} s"] for label, it in found.items()}
    under = conditions([it | {"seconds": None} for it in found.values()])  # those are a step's, not a run's
    (folder / "table.md").write_text(
        table(
            f"{name}: {PUBLISHED[name]['what']}",
            note or "Full scale.",
            ["", "paper: memory", "time", "ours: memory", "time per iteration", "steps timed"],
            [[label, *theirs.get(label, ["-", "-"]), *ours[label], it["steps"]] for label, it in found.items()],
            "Ours: peak memory of a process that does nothing else, and the median time of its steps after the first three.\n\n"
            + under,
        )
    )
    return {
        "source": PUBLISHED[name]["source"],
        "claim": PUBLISHED[name]["what"],
        "results": found,
        "paper": [f"{label} {', '.join(theirs[label])}" for label in ("Adam", "MADA")],
        "ours": [f"{label} {', '.join(ours[label])}" for label in ("Adam", "MADA")],
        "n": 1,
        "conditions": under,
    }


def index(results):
    """results/README.md: a line for each summary, the remarks of results/remarks.md, then each table and picture."""
    lines = ["| name | scale | what | the paper | ours | n | hardware | command | log |", "|" + "---|" * 9]
    shown = []
    for name in NAMES:
        for path in sorted((results / name).glob("*/summary.json")):
            it, folder = json.loads(path.read_text()), f"{name}/{path.parent.name}"
            logs = it["logs"] or [
                f"{folder}/{log.name}"
                for log in sorted(path.parent.glob("*.*"))
                if log.suffix in (".csv", ".json") and log != path
            ]
            log = ", ".join(f"[{log}]({log})" for log in logs)
            smoke = it["scale"] == "smoke"  # shows that it runs: its numbers mean nothing
            words = ["not compared", "it ran"] if smoke else ["; ".join(it["paper"]), "; ".join(it["ours"])]
            lines.append(
                f"| {name} | {it['scale']} | {it['claim']} ({it['source']}) | {words[0]} | {words[1]} | {it['n']} | "
                f"{it['conditions']} | `{it['command']}` | {log} |"
            )
            if smoke:
                continue
            shown += [f"## {name}, {it['scale']}", ""]
            if (path.parent / "table.md").exists():
                shown += [(path.parent / "table.md").read_text().replace("\n# ", "\n### ")]
            for picture in sorted(path.parent.glob("*.png"), reverse=True):
                shown += [f"![{name}: {it['claim']}]({folder}/{picture.name})", ""]
    remarks = results / "remarks.md"
    return (
        "\n".join(
            [
                "# Results",
                "",
                "Made by `python scripts/reproduce.py index` from the folders' summaries and remarks.md.",
                "",
                *lines,
                "",
                remarks.read_text() if remarks.exists() else "",
                *shown,
            ]
        ).rstrip()
        + "\n"
    )
