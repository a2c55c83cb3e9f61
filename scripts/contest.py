"""For now: run the contest. See reproduce/contest.py."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from reproduce import contest
from reproduce.pool import execute

parser = argparse.ArgumentParser()
parser.add_argument("--scale", default="cpu")
parser.add_argument("--tasks")
parser.add_argument("--rows")
parser.add_argument("--seeds", type=int)
parser.add_argument("--out", default=str(ROOT / "out" / "runs"))
parser.add_argument("--workers", type=int, default=2)
args = parser.parse_args()
for name in (args.tasks or ",".join(contest.SCALES[args.scale])).split(","):
    todo = [
        r
        for (row, _, _), r in contest.runs(name, args.scale, args.seeds).items()
        if not args.rows or row in args.rows.split(";")
    ]
    print(name, len(todo), flush=True)
    execute(todo, args.out, args.workers, keep_checkpoints=False)
