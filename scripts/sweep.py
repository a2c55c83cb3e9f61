"""Train every cell of a grid over any settings of train.py, once each, by any number of workers, some of which may die.

    python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py            # Figure 8, reduced; again: what is missing
    python scripts/sweep.py config/sweep_shakespeare_betas.py --workers 16   # several per GPU; default: one
    python scripts/sweep.py config/sweep_shakespeare_betas.py --dry_run      # list the cells and the time they take
    python scripts/sweep.py config/sweep_shakespeare_betas.py --shard 3/8    # one of 8 parts
    python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py --max_iters=100 --out out/quick   # a setting of all
    python scripts/sweep.py config/sweep_shakespeare_betas.py --jobs 8 --workers 4 \\
        --queue timeout_min=720,gpus_per_node=1,slurm_partition=gpu

reproduce/grid.py says what a sweep file is. Each cell is a folder of OUT; summary.csv and contours.png next to them are
made from the cells' metrics alone. With --jobs, SLURM jobs share the cells, and are queued again when they run out of
time; the command returns at once, and without --jobs it summarizes what is done.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reproduce import drawing, grid
from reproduce.cluster import submit
from reproduce.pool import default_workers, execute, look
from settings import UserError, one_line_errors


def shard(text):
    i, n = (int(part) for part in text.split("/"))
    if not 1 <= i <= n:
        raise ValueError
    return i, n


def queue(text):
    """submitit's parameters: "timeout_min=720,slurm_partition=gpu" -> a dict."""
    pairs = [part.partition("=") for part in text.split(",")]
    return {name: int(value) if value.isdigit() else value for name, _, value in pairs}


def list_cells(runs, names, seconds, out, workers):
    """What --dry_run prints."""
    found = [look(each, out) for each in runs]
    for each, state in zip(runs, found, strict=True):
        print(f"{each.id}  {state['state']:8s}{names[each.id]}")
    known = [state["seconds"] for state in found if state["state"] == "done"]
    left, count = sum(state["state"] in ("pending", "running") for state in found), workers or default_workers(runs)
    each = median(known) if known else seconds
    where = "measured here" if known else "from the sweep file"
    time = (
        f"about {left * each / count / 60:.0f} min with {count} workers at {each:.1f} s a cell ({where})"
        if each
        else ""
    )
    print(f"{len(runs)} cells, {left} to do: {time or 'no cell has been timed yet'}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sweep", help="the sweep file")
    parser.add_argument("--out", help="folder of the cells; default: out/ and the name of the sweep file")
    parser.add_argument("--workers", type=int, help="processes; default: one per GPU, or per core without; 0: this one")
    parser.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="i/n", help="only the i-th of n parts, i = 1 ... n"
    )
    parser.add_argument("--jobs", type=int, help="submit it as this many jobs of a cluster, and return")
    parser.add_argument("--cluster", default="slurm", help="slurm, or local: processes of this machine")
    parser.add_argument("--queue", type=queue, default={}, help="submitit's parameters: name=value,name=value")
    parser.add_argument("--dry_run", action="store_true", help="list the cells, their states and the estimated time")
    parser.add_argument("--retry_failed", action="store_true", help="run again what has failed")
    parser.add_argument(
        "--under", type=float, help="count the cells under this training loss; default: under the median"
    )
    parser.add_argument("--compare", metavar="CSV", help="print ours minus theirs for the cells of such a table")
    args, arguments = parser.parse_known_args()
    for name, least in (("workers", 0), ("jobs", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    runs, seconds = grid.cells(args.sweep, arguments)
    theirs = grid.read(args.compare) if args.compare else None  # before hours of work
    out, axes = args.out or os.path.join("out", Path(args.sweep).stem), grid.varied(runs)
    names = {
        each.id: "  ".join([each.cfg["optimizer"], *[f"{name}={each.cfg[name]!r}" for name in axes]]) for each in runs
    }
    if args.dry_run:
        return list_cells(runs[args.shard[0] - 1 :: args.shard[1]], names, seconds, out, args.workers)
    how = {"workers": args.workers, "retry_failed": args.retry_failed, "shard": args.shard, "keep_checkpoints": False}
    if args.jobs:
        for job in submit(runs, out, args.jobs, args.cluster, args.queue, **how):
            print(f"job {job.job_id}: {job.paths.stderr}")
        return None
    states = execute(runs, out, **how)
    table = list(grid.rows(runs, out))
    if table:
        grid.write(table, os.path.join(out, "summary.csv"))
        print(os.path.join(out, "summary.csv"), f"has {len(table)} of {len(runs)} cells")
        others = {*axes} - {"beta1", "beta2", "seed"}
        if {"beta1", "beta2"} <= {*axes} and others:
            print(f"no picture of betas: {', '.join(sorted(others))} vary too; --name=value keeps one value")
        elif {"beta1", "beta2"} <= {*axes}:
            caption = f"{runs[0].cfg['dataset']}, {runs[0].cfg['max_iters']} steps. A cross: a run diverged."
            drawing.grid(grid.panels_of([table]), os.path.join(out, "contours.png"), caption)
            print(os.path.join(out, "contours.png"))
        print(*grid.report(table, args.under), sep="\n")
        if theirs:
            print(*grid.compare(table, theirs), sep="\n")
    failed = {key: state for key, state in states.items() if state["state"] == "failed"}
    for key, state in failed.items():
        last = state["error"].strip().splitlines()[-1]
        print(f"failed: {names[key]}: {last} ({os.path.join(out, key)})", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(states)} runs failed; --retry_failed runs them again")


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
