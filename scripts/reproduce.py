"""Reproduce a table or figure of the paper: run what is missing, resume what was cut off, compare with the paper.

    python scripts/reproduce.py list                                # names and scales: what is done, what is left
    python scripts/reproduce.py table5 --scale cpu --dry_run        # how many runs, and about how long
    python scripts/reproduce.py table5 --scale cpu --seeds 3        # hours on two cores; again: what is missing
    python scripts/reproduce.py all --scale smoke                   # everything, for minutes
    python scripts/reproduce.py table5 --scale cpu --draw           # no run: from what has ended so far
    python scripts/reproduce.py contest --scale cpu --task digits   # AdamW against MADA: reproduce/contest.py
    python scripts/reproduce.py index                               # results/README.md from all summaries

Writes results/NAME/SCALE/: the runs' metrics, summary.json, table.md, figure.png. The rows and scales are in
reproduce/experiments.py, the published numbers in results/paper/.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before scripts/, whose reproduce.py is this file
from reproduce import laboratory, pages, questions, store
from reproduce.experiments import NAMES, SCALES
from reproduce.pool import CannotWrite, Stopped
from settings import UserError, one_line_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*NAMES, *questions.NAMES]
    parser.add_argument(
        "name", choices=[*known, "all", "list", "index"], metavar="NAME", help=f"{', '.join(known)}, all, list, index"
    )
    parser.add_argument("--scale", default="smoke", choices=SCALES)
    parser.add_argument("--seeds", type=int, help="runs of each row; default: the scale's")
    parser.add_argument("--workers", type=int, help="processes; default: one per GPU, or per core without; 0: this one")
    parser.add_argument("--no_grid", action="store_true", help="at the paper's learning rates only")
    parser.add_argument("--draw", action="store_true", help="run nothing: from what has ended, and what results/ holds")
    parser.add_argument("--dry_run", action="store_true", help="run nothing: say how many runs, and about how long")
    parser.add_argument("--task", help=f"one task alone of {', '.join(questions.NAMES)}")
    args = parser.parse_args()
    how = args.seeds, not args.no_grid, args.task
    for name, least in (("seeds", 1), ("workers", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if args.task is not None and args.name not in questions.NAMES:
        raise UserError(f"--task {args.task}: only {', '.join(questions.NAMES)} have tasks")
    if args.name == "index":
        (store.RESULTS / "README.md").write_text(pages.index(store.RESULTS))
        return
    if args.name == "list":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `list | head` has read enough
        for name in known:
            print(f"{name:8s} {NAMES[name].claim if name in NAMES else questions.claim(name)}")
            for scale in laboratory.scales(name):
                print(f"           {scale:6s} {laboratory.estimate(name, scale, *how)}")
        return
    names = [name for name in known if args.scale in laboratory.scales(name)] if args.name == "all" else [args.name]
    if args.dry_run:
        for name in names:
            print(f"{name:8s} {args.scale:6s} {laboratory.estimate(name, args.scale, *how)}")
        return
    failed = []
    for name in names:
        try:
            failed += laboratory.reproduce(name, args.scale, args.seeds, args.workers, args.draw, *how[1:])
        except UserError as error:
            if args.name != "all" or isinstance(error, Stopped | CannotWrite):
                raise
            failed.append(str(error))
    if failed:
        raise UserError(
            f"{len(failed)} failed: {'; '.join(dict.fromkeys(failed))}; run it again to retry "
            "(each run's log: out/runs/ID/log.txt)"
        )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
