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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
import evaluate
import figures
import show

import data.tokens
import metrics
from checkpoints import load
from config.reproduce import CONTESTS, NAMES, SCALES
from runs import Board, run
from settings import UserError, one_line_errors
from workers import CannotWrite, Stopped, errors, execute

RESULTS, WORK = ROOT / "results", ROOT / "out" / "runs"
tried, said = set(), set()  # runs that this process has done or seen fail; what it has said of missing data


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


def fresh(path, cell):
    """Whether results/ holds this very run."""
    if not path.exists():
        return False
    with open(path) as file:
        return json.loads(file.readline()).get("run") == cell.id


def perform(contest, scale, seeds, workers, grid):
    """Run what results/ does not hold of a contest, and bring it there. Returns the errors of runs that failed."""
    failed, keep = [], bool(CONTESTS[contest].scales[scale].evaluated)
    while True:
        found = cells(contest, scale, seeds, grid)
        missing = [
            cell
            for key, cell in found.items()
            if not fresh(file_of(contest, scale, *key), cell) and cell.id not in tried
        ]
        tried.update(cell.id for cell in missing)
        if missing:
            failed += errors(execute(missing, WORK, workers, True, keep_checkpoints=keep))
        collect(contest, scale, found)
        if not missing:  # nor has a run ended that others waited for
            return failed


def gather(contest, scale):
    """{label: {factor: [Ended, ...]}} of what results/ holds of a contest and its present settings."""
    seeds = [int(path.stem.rpartition("seed")[2]) for path in home(contest, scale).glob("*-seed*.jsonl")]
    found = {}
    for (label, factor, seed), cell in cells(contest, scale, max(seeds, default=1337) - 1336, True).items():
        path = file_of(contest, scale, label, factor, seed)
        if fresh(path, cell):
            extra = path.with_suffix(".evaluation.json")
            evaluation = json.loads(extra.read_text()) if extra.exists() else {}
            ended = show.Ended(seed, *show.read(path), evaluation if evaluation.get("run") == cell.id else {})
            found.setdefault(label, {}).setdefault(factor, []).append(ended)
        elif path.exists():
            print(f"{path.name} is left out: it was run with other settings")
    return found


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
        checkpoint = os.path.join(board.path(cell), "ckpt_last.pt")
        wanted = CONTESTS[contest].scales[scale].evaluated
        if wanted and key[1] == 1 and not header["diverged"] and os.path.exists(checkpoint):
            there = path.with_suffix(".evaluation.json")
            before = json.loads(there.read_text()) if there.exists() else {}
            before = before if before.get("run") == cell.id else {"run": cell.id}
            there.write_text(json.dumps(before | perplexities(checkpoint, wanted, before)) + "\n")


def perplexities(checkpoint, names, known):
    """{column: loss and perplexity as in the paper's tables} of the data sets that are not known yet, if they are there.

    names: {column: (data set, split)}.
    """
    found, names = {}, {column: name for column, name in names.items() if column not in known}
    model, meta = load(checkpoint, "auto") if names else (None, None)
    for column, (name, split) in names.items():
        try:
            split = data.tokens.Tokens(name, split, model.config.block_size)
            if split.meta["tokenizer"] != meta["tokenizer"]:
                raise UserError(f"the tokens of {name} are not the model's ({meta['tokenizer']})")
        except UserError as error:
            if error.args not in said:
                said.add(error.args)
                print(f"no perplexity on {name}: {error}")
            continue
        loss, windows = evaluate.Evaluation(model, 64).paper(split)
        found[column] = {"loss": loss, "perplexity": math.exp(loss), "windows": windows, "source": split.meta["source"]}
    return found


def has(name, scale):
    """Whether a name can be shown at a scale."""
    return not NAMES[name][1] or any(scale in CONTESTS[contest].scales for contest in NAMES[name][1])


def reproduce(name, scale, seeds=None, workers=None, draw=False, grid=True):
    """One table or figure at one scale. Returns the errors of runs that failed. Raises UserError."""
    how, contests, rest = NAMES[name]
    if not has(name, scale):
        raise UserError(
            f"{name} has no scale {scale}; it has {', '.join(scale for scale in SCALES if has(name, scale))}"
        )
    contests, failed = [contest for contest in contests if scale in CONTESTS[contest].scales], []
    folder = RESULTS / name / scale
    folder.mkdir(parents=True, exist_ok=True)
    for contest in contests:
        if draw:  # what has ended meanwhile
            collect(contest, scale, cells(contest, scale, seeds, grid))
        else:
            failed += perform(contest, scale, seeds, workers, grid)
    summary = getattr(figures if name.startswith("fig") else show, how)(
        name=name,
        scale=scale,
        folder=folder,
        runs={contest: gather(contest, scale) for contest in contests},
        rest=rest,
        draw=draw,
        workers=workers,
        seeds=seeds,
    )
    if summary is None:
        print(f"{name} {scale}: nothing has been run yet")
        return failed
    path, before = folder / "summary.json", {}
    if draw and path.exists():
        before = {key: value for key, value in json.loads(path.read_text()).items() if key in ("command", "date")}
    options = f" --seeds {seeds}" * (seeds is not None) + " --no_grid" * (not grid)
    summary = (
        {
            "name": name,
            "scale": scale,
            "command": f"python scripts/reproduce.py {name} --scale {scale}{options}",
            "date": f"{datetime.date.today()}",
            "logs": [os.path.relpath(home(contest, scale), RESULTS) for contest in contests],
        }
        | before
        | summary
    )
    path.write_text(json.dumps(summary, indent=1) + "\n")
    print(
        f"{folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}: {', '.join(sorted(os.listdir(folder)))}"
    )
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "name", choices=[*NAMES, "all", "list", "index"], metavar="NAME", help=f"{', '.join(NAMES)}, all, list, index"
    )
    parser.add_argument("--scale", default="smoke", choices=SCALES)
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
            there, what = (
                sorted(path.parent.name for path in (RESULTS / name).glob("*/summary.json")),
                show.PUBLISHED[name],
            )
            print(f"{name:8s} results: {', '.join(there) or '-':12s} {what.get('claim') or what['what']}")
    elif args.name == "index":
        (RESULTS / "README.md").write_text(show.index(RESULTS))
    else:
        failed = []
        for name in [name for name in NAMES if has(name, args.scale)] if args.name == "all" else [args.name]:
            try:
                failed += reproduce(name, args.scale, args.seeds, args.workers, args.draw, not args.no_grid)
            except UserError as error:
                if args.name != "all" or isinstance(error, Stopped | CannotWrite):
                    raise
                failed.append(str(error))
        if failed:
            raise UserError(
                f"{len(failed)} failed: {'; '.join(dict.fromkeys(failed))}; the same command tries again "
                "(each run's log: out/runs/ID/log.txt)"
            )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
