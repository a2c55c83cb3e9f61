"""Tables from what results/ holds, the paper's numbers beside ours; figures.py has the figures. For reproduce.py.

A function that shows something takes (name, scale, folder, runs, rest, draw, workers), writes table.md or figure.png to
folder and returns what summary.json is to say, or None where there is nothing yet. runs: {contest: {label: {factor on the
learning rate: [Ended, ...]}}}; rest: from NAMES in config/reproduce.py; draw: nothing may be run.
"""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from config.reproduce import CONTESTS, NAMES, PROFILE

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "results" / "paper"
PUBLISHED = json.loads((PAPER / "tables.json").read_text())


class Ended(NamedTuple):
    seed: int
    header: dict
    records: list
    evaluation: dict  # {data set: perplexity ...}

    def value(self, key):
        values = [record[key] for record in self.records if key in record]
        return math.nan if self.header.get("diverged") or not values else values[-1]


def read(path):
    """A run's file in results/ -> header, records."""
    header, *records = map(json.loads, path.read_text().splitlines())
    return header, records


def gather(home, file_of, contest, scale):
    """{label: {factor: [Ended, ...]}} of the runs of a contest that are there."""
    found = {}
    for label in contest.rows if home.exists() else ():
        for factor in (1, *contest.scales[scale].grid):
            for seed in range(1337, 1337 + 100):
                path = file_of(label, factor, seed)
                if not path.exists():
                    break
                extra = path.with_suffix(".evaluation.json")
                ended = Ended(seed, *read(path), json.loads(extra.read_text()) if extra.exists() else {})
                found.setdefault(label, {}).setdefault(factor, []).append(ended)
    return found


def spread(values):
    """Of the finite values of those that are there (not None): {"n", "diverged", "mean", "sd", "values"}."""
    values = [value for value in values if value is not None]
    good = [value for value in values if math.isfinite(value)]
    middle, sd = (mean(good) if good else None), (stdev(good) if len(good) > 1 else None)
    return {"n": len(values), "diverged": len(values) - len(good), "mean": middle, "sd": sd, "values": values}


def text(it, digits):
    if it is None or it["mean"] is None:
        return "diverged" if it and it["n"] else "-"
    sd = "" if it["sd"] is None else f" ± {it['sd']:.{digits}f}"
    return f"{it['mean']:.{digits}f}{sd}" + f" ({it['diverged']} diverged)" * (it["diverged"] > 0)


def gap(it, baseline, better, digits):
    """The difference to the baseline in words: with both spreads it is one, or it is not."""
    if not it or not baseline or it is baseline or None in (it["mean"], baseline["mean"]):
        return "", None
    difference = it["mean"] - baseline["mean"]
    if None in (it["sd"], baseline["sd"]):
        return f"{difference:+.{digits}f} (one seed)", difference
    noise = math.hypot(it["sd"], baseline["sd"])
    word = "better" if (difference < 0) == (better == "lower") else "worse"
    word = "within the spread" if abs(difference) <= noise else word
    return f"{difference:+.{digits}f}, {word}", difference


def best_of(factors, value, better):
    """The factor on the learning rate with the best mean."""
    means = {factor: spread([value(run) for run in runs])["mean"] for factor, runs in factors.items()}
    means = {factor: m for factor, m in means.items() if m is not None}
    return (min if better == "lower" else max)(means, key=means.get) if means else 1


def first_line(contests, scale):
    """How this scale is reduced, as the first line of a table."""
    notes = [note for contest in contests if (note := CONTESTS[contest].scales[scale].note)]
    return "\n".join(dict.fromkeys(notes)) or f"Full scale: the paper's setting ({scale})."


def conditions(runs):
    """Hardware, versions and time of some runs, from their headers."""
    headers = [run.header for factors in runs.values() for ended in factors.values() for run in ended]

    def some(key):
        return sorted({str(header.get(key)) for header in headers})
    seconds = [header["seconds"] for header in headers if header.get("seconds")]
    return {"runs": len(headers), "devices": some("device"), "cpu_threads": some("cpu_threads"), "torch": some("torch"),
            "git": some("git"), "data": sorted({header.get("data", {}).get("source", "") for header in headers}),
            "mean_seconds_per_run": round(mean(seconds), 1) if seconds else None}


def table(path, title, note, head, lines, after=""):
    rows = [head, ["---"] * len(head), *lines]
    path.write_text("\n".join([note, "", f"# {title}", "", *("| " + " | ".join(map(str, row)) + " |" for row in rows), "",
                               after]).rstrip() + "\n")


def contest_rows(runs, contest, labels, columns, published, digits):
    """Lines of a table and their summary. columns: {heading: value of a run}; published: {label: [number by column]}."""
    better, baseline, lines, summary = CONTESTS[contest].better, CONTESTS[contest].baseline, [], {}
    at = {label: {factor: {name: spread([value(run) for run in ended]) for name, value in columns.items()}
                  for factor, ended in runs.get(label, {}).items()} for label in labels}
    key = next(iter(columns))
    best = {label: best_of(runs[label], columns[key], better) if label in runs else 1 for label in labels}
    grid = any(len(factors) > 1 for factors in at.values())
    for label in labels:
        ours, tuned = at[label].get(1, {}), at[label].get(best[label], {})
        base, base_tuned = at.get(baseline, {}).get(1, {}), at.get(baseline, {}).get(best.get(baseline), {})
        paper, cells = published.get(label), [label]
        for i, name in enumerate(columns):
            cells += ["-" if not paper or i >= len(paper) else f"{paper[i]:g}", text(ours.get(name), digits)]
        words, difference = gap(ours.get(key), base.get(key), better, digits)
        theirs = paper[0] - published[baseline][0] if paper and baseline in published and label != baseline else None
        cells += ["" if theirs is None else f"{theirs:+.4g}", words]
        if grid:
            tuned_words, _ = gap(tuned.get(key), base_tuned.get(key), better, digits)
            cells += [f"{text(tuned.get(key), digits)} (x{best[label]:g})" if tuned else "-", tuned_words]
        lines.append([*cells, ours.get(key, {}).get("n", 0)])
        summary[label] = {"paper": paper, "ours": ours, "gap_to_baseline": difference, "paper_gap": theirs,
                          "best_factor": best[label], "tuned": tuned}
    head = ["optimizer"]
    for name in columns:
        head += [f"{name}: paper", "ours"]
    head += [f"paper's gap to {baseline}", "our gap", *["ours at the best lr", f"gap to {baseline} at its best"] * grid, "n"]
    return head, lines, summary


AFTER = ("Ours: mean ± standard deviation over n seeds at the paper's learning rate. Gap: difference of means; \"within the "
         "spread\" where it is not larger than both standard deviations together (root of the sum of squares).")
BEST = " Best lr: the best mean over factors {} on that rate, chosen by the very number that is shown."


def losses(name, scale, folder, runs, rest, draw, workers):
    """Tables 2, 4 and 5: the last value of one key of the metrics."""
    if not any(runs.values()):
        return None
    parts, summary = [], {}
    for contest, ended in runs.items():
        it, published = CONTESTS[contest], PUBLISHED[name].get("rows") or PUBLISHED[name][contest]
        key = it.value
        columns = {key.replace("_", " "): lambda run, key=key: run.value(key)}
        if key == "accuracy":
            columns["best epoch"] = lambda run: run.value("best_accuracy")
        published = {label: numbers[:1] for label, numbers in published.items()}
        head, lines, summary[contest] = contest_rows(ended, contest, rest or tuple(it.rows), columns, published,
                                                     2 if key == "accuracy" else 4)
        path = folder / "table.md"
        grid = it.scales[scale].grid
        table(path, f"{name}, {contest}: {PUBLISHED[name]['what']}", first_line([contest], scale), head, lines,
              AFTER + (BEST.format((1, *grid)) if grid else "") + f" {conditions(ended)}")
        parts.append(path.read_text())
    (folder / "table.md").write_text("\n".join(parts))
    return {"source": PUBLISHED[name]["source"], "results": summary,
            "conditions": {contest: conditions(ended) for contest, ended in runs.items()}}


def perplexities(name, scale, folder, runs, rest, draw, workers):
    """Tables 3, 6 and 7: perplexities of the last checkpoints, and where the paper has it the validation loss."""
    contest, ended = next(iter(runs.items()))
    if not ended:
        return None
    columns = {kind: (lambda run: run.value("val_loss")) if kind == "loss" else
               (lambda run, kind=kind: run.evaluation.get(kind, {}).get("perplexity"))
               for kind in PUBLISHED[name]["columns"]}
    head, lines, summary = contest_rows(ended, contest, rest, columns, PUBLISHED[name]["rows"], 4)
    table(folder / "table.md", f"{name}: {PUBLISHED[name]['what']}", first_line([contest], scale), head, lines,
          AFTER + f" The gaps are the first column's. {conditions(ended)}")
    return {"source": PUBLISHED[name]["source"], "results": summary, "conditions": conditions(ended)}


def profile(name, scale, folder, runs, rest, draw, workers):
    """Appendix D: memory and time per iteration."""
    note, files, batches = PROFILE[scale]
    path = folder / "measured.json"
    if not draw:
        import measure
        found = {f"{label}, {batch}" if batch else label: measure.measure([*arguments, *files, *settings])
                 for batch, settings in batches.items() for label, arguments in rest.items()}
        path.write_text(json.dumps(found, indent=1) + "\n")
    if not path.exists():
        return None
    found, published = json.loads(path.read_text()), PUBLISHED[name]["rows"]
    lines = [[label, *([f"{published[label][0]} GB", f"{published[label][1]} s"] if label in published else ["-", "-"]),
              f"{it['peak_gb']:.2f} GB", f"{it['seconds']:.3f} s"] for label, it in found.items()]
    table(folder / "table.md", f"{name}: {PUBLISHED[name]['what']}", note or "Full scale.",
          ["", "paper: memory", "time", "ours: memory", "time per iteration"], lines,
          "Ours: peak memory of a process that does nothing else, and the median time of its steps after the first three.")
    return {"source": PUBLISHED[name]["source"], "results": found}


def index(results):
    """results/README.md: a line for each summary, and the remarks of results/remarks.md."""
    lines = ["# Results", "", "Made by `python scripts/reproduce.py index`; each folder has its runs' metrics.", "",
             "| name | scale | claim or source | ours | command |", "|---|---|---|---|---|"]
    for name in NAMES:
        for path in sorted((results / name).glob("*/summary.json")):
            it = json.loads(path.read_text())
            if it["scale"] == "smoke":  # shows that it runs, and is not kept
                continue
            shown = "table.md" if (path.parent / "table.md").exists() else "figure.png"
            lines.append(f"| {name} | {it['scale']} | {it.get('claim') or it.get('source')} | "
                         f"[{shown}]({name}/{path.parent.name}/{shown}) | `{it['command']}` |")
    remarks = results / "remarks.md"
    return "\n".join(lines) + "\n\n" + (remarks.read_text() if remarks.exists() else "")
