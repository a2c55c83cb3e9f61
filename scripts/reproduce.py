"""Reproduce a table or figure of the paper: run what is missing, resume what was cut off, set the result beside the paper's.

    python scripts/reproduce.py list                                # names and scales, and what has been run
    python scripts/reproduce.py table5 --scale cpu --seeds 3        # hours on two cores; again: what is missing
    python scripts/reproduce.py all --scale smoke                   # everything, for minutes
    python scripts/reproduce.py table5 --scale cpu --draw           # no run: from what has ended so far
    python scripts/reproduce.py index                               # results/README.md from all summaries

Writes results/NAME/SCALE/: the runs' metrics, summary.json, table.md or figure.png. Tables and figures are made from these
files alone. Checkpoints and logs are in out/runs/ID/ (runs.py), so names that need the same run share it. Rows and scales
stand in config/reproduce.py, what is shown of them in scripts/show.py, the published numbers in results/paper/.
"""

import argparse
import datetime
import itertools
import json
import math
import os
import re
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
import data.tokens
import evaluate
import figures
import metrics
import show
from config import UserError, one_line_errors
from config.reproduce import CONTESTS, NAMES
from model import load
from runs import Board, run
from workers import execute

RESULTS, WORK = ROOT / "results", ROOT / "out" / "runs"


def home(contest, scale):
    """Where the metrics of a contest's runs are: with the first name that shows them."""
    first = next(name for name, (_, contests, _) in NAMES.items() if contest in contests)
    return RESULTS / first / scale / "runs" / contest


def file_of(contest, scale, label, factor, seed):
    """The file of a run's metrics."""
    slug = re.sub("[^a-z0-9.=]+", "-", re.sub("-(?= |$)", " minus", label.lower())).strip("-")
    return home(contest, scale) / f"{slug}{f'-lr-x{factor:g}' * (factor != 1)}-seed{seed}.jsonl"


def cells(contest, scale, seeds, grid):
    """{(label, factor on the learning rate, seed): Run}, without the rows that wait for another's end."""
    it, found = CONTESTS[contest], {}
    how = it.scales[scale]
    seeds = range(1337, 1337 + (seeds or how.seeds))
    for factor, seed, label in itertools.product((1, *how.grid) if grid else (1,), seeds, it.rows):
        if factor != 1 and it.tuned and label not in it.tuned:
            continue
        row, fixed = it.rows[label], {}
        if row[0] == "final of":
            end, row = file_of(contest, scale, row[1], factor, seed), row[2:]
            if not end.exists():
                continue
            fixed = show.read(end)[1][-1]["coefficients"]
        arguments = [name if name.startswith("--") else str(ROOT / name) for name in (*row, *how.files)]
        cfg = run(it.script, *arguments).cfg
        own = fixed | ({"seed": seed} if "seed" in cfg else {})
        if factor != 1:
            own |= {name: factor * cfg[name] for name in ("learning_rate", "min_lr") if name in cfg}
        found[label, factor, seed] = run(it.script, *arguments, **own)
    return found


def perform(contest, scale, seeds, workers, grid):
    """Run what is missing of a contest, and what failed before, and bring what has ended to results/. Returns the errors."""
    done, errors = {}, []
    while len(missing := {key: cell for key, cell in cells(contest, scale, seeds, grid).items() if key not in done}):
        ended = execute(list(missing.values()), WORK, workers, True, keep_checkpoints=bool(CONTESTS[contest].evaluated))
        errors += [it["error"].strip().splitlines()[-1] for it in ended.values() if it["state"] == "failed"]
        collect(contest, scale, missing)
        done |= missing
    return errors


def rounded(x):
    """With 7 significant digits: files of half the size."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return float(f"{x:.7g}") if isinstance(x, float) else x


def collect(contest, scale, found):
    """Copy the metrics of runs that have ended, without this machine's paths, and take their perplexities."""
    board = Board(WORK)
    for key, cell in found.items():
        state, path = board.look(cell), file_of(contest, scale, *key)
        if state["state"] != "done":
            continue
        header, records = metrics.read(board.path(cell))
        del header["config"]["out_dir"]
        header |= {"run": cell.id, "diverged": state.get("diverged", False), "seconds": state.get("seconds")}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(rounded(record)) + "\n" for record in [header, *records]))
        there = path.with_suffix(".evaluation.json")
        checkpoint = os.path.join(board.path(cell), "ckpt_last.pt")
        if CONTESTS[contest].evaluated and os.path.exists(checkpoint) and not there.exists():
            there.write_text(json.dumps(perplexities(checkpoint, CONTESTS[contest].evaluated)) + "\n")


def perplexities(checkpoint, names):
    """{data set: loss and perplexity as in the paper's tables}, as bytes for a model of bytes."""
    model, meta = load(checkpoint, "auto")
    suffix = "_bytes" if meta["tokenizer"] == "bytes" else ""
    found = {}
    for name in names:
        try:
            split = data.tokens.Tokens(name + suffix, evaluate.SPLITS.get(name, "val"), model.config.block_size)
        except UserError as error:
            found[name] = {"missing": str(error)}
            continue
        if split.meta["tokenizer"] != meta["tokenizer"]:
            found[name] = {"missing": f"the model's tokens are others ({meta['tokenizer']})"}
            continue
        loss, windows = evaluate.Evaluation(model, 64).paper(split)
        found[name] = {"loss": loss, "perplexity": math.exp(loss), "windows": windows, "source": split.meta["source"]}
    return found


def reproduce(name, scale, seeds=None, workers=None, draw=False, grid=True):
    """One table or figure at one scale. Returns the errors of runs that failed."""
    how, contests, rest = NAMES[name]
    errors = []
    for contest in contests:
        if scale not in CONTESTS[contest].scales:
            print(f"{name}: {contest} has no scale {scale}; it has {', '.join(CONTESTS[contest].scales)}")
    contests = [contest for contest in contests if scale in CONTESTS[contest].scales]
    if not contests and NAMES[name][1]:
        return errors
    folder = RESULTS / name / scale
    folder.mkdir(parents=True, exist_ok=True)
    for contest in contests:
        if draw:  # what has ended meanwhile
            collect(contest, scale, cells(contest, scale, seeds, grid))
        else:
            errors += perform(contest, scale, seeds, workers, grid)
    found = {contest: show.gather(home(contest, scale), partial(file_of, contest, scale), CONTESTS[contest], scale)
             for contest in contests}
    summary = getattr(figures if name.startswith("fig") else show, how)(
        name=name, scale=scale, folder=folder, runs=found, rest=rest, draw=draw, workers=workers, seeds=seeds)
    if summary is None:
        print(f"{name} {scale}: nothing has been run yet")
        return errors
    path, date = folder / "summary.json", f"{datetime.date.today()}"
    if draw and path.exists():
        date = json.loads(path.read_text())["date"]
    summary = {"name": name, "scale": scale, "command": f"python scripts/reproduce.py {name} --scale {scale}",
               "date": date} | summary
    path.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}: {', '.join(sorted(os.listdir(folder)))}")
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*NAMES, "all", "list", "index"], metavar="NAME",
                        help=f"{', '.join(NAMES)}, all, list, index")
    parser.add_argument("--scale", default="smoke", choices=["smoke", "cpu", "gpu", "paper"])
    parser.add_argument("--seeds", type=int, help="runs of each row; default: the scale's")
    parser.add_argument("--workers", type=int, help="processes; default: one per GPU, or per core without; 0: this one")
    parser.add_argument("--no_grid", action="store_true", help="at the paper's learning rates only")
    parser.add_argument("--draw", action="store_true", help="run nothing: from what has ended, and what results/ holds")
    args = parser.parse_args()
    for name, least in (("seeds", 1), ("workers", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if args.name == "list":
        for name in NAMES:
            there, what = sorted(path.parent.name for path in (RESULTS / name).glob("*/summary.json")), show.PUBLISHED[name]
            print(f"{name:8s} results: {', '.join(there) or '-':12s} {what.get('claim') or what['what']}")
    elif args.name == "index":
        (RESULTS / "README.md").write_text(show.index(RESULTS))
    else:
        errors = []
        for name in NAMES if args.name == "all" else [args.name]:
            errors += reproduce(name, args.scale, args.seeds, args.workers, args.draw, not args.no_grid)
        if errors:
            raise UserError(f"{len(errors)} runs failed: {'; '.join(dict.fromkeys(errors))}; the same command tries them "
                            "again (each run's log: out/runs/ID/log.txt)")


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
