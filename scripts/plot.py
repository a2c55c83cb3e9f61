"""Draw runs from their metrics.jsonl: losses, and coefficients if the optimizers learn any; or a figure of the paper.

python scripts/plot.py out/a                  # writes out/a/curves.png
python scripts/plot.py out/a out/b out/c      # together: out/curves.png, or wherever --out says
python scripts/plot.py out/a out/b --follow   # again every 10 seconds, until both have ended or Ctrl-C
python scripts/plot.py results/fig5/cpu       # again from the metrics in results/: reproduce.py fig5 --scale cpu --draw
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
from reproduce import curves, laboratory, store
from settings import UserError, one_line_errors


def read(folders: Sequence[str], live: bool = False) -> dict[str, tuple[dict, list[dict]]]:
    """{name: (header, records)} of runs; live: without those that have not begun. Raises UserError."""
    runs = {}
    for folder in folders:
        name = folder if len(folders) == 1 else os.path.relpath(folder, common(folders))
        try:
            runs[name] = metrics.read(folder)
        except OSError:
            if not live:
                raise UserError(
                    f"{folder}: there is no {metrics.FILE}; name the out_dir of a run of train.py"
                ) from None
    return runs


def common(folders: Sequence[str]) -> str:
    """The folder that contains all of them."""
    if len({os.path.isabs(folder) for folder in folders}) > 1:
        folders = map(os.path.abspath, folders)
    return os.path.commonpath(folders) or "."


def draw(runs: dict, path: str) -> None:
    """Write the picture. Raises UserError if it cannot be written."""
    try:
        curves.draw(runs, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    except (KeyError, TypeError):
        raise UserError(f"{' '.join(runs)}: no metrics of a training run, which has an optimizer and losses") from None


def at_end(run: tuple[dict, list[dict]]) -> bool:
    """Whether a run has done all its steps, or has diverged: its last loss is not finite."""
    header, records = run
    total = header.get("total") or header["config"].get("max_iters", math.inf)  # older records have no total
    last = records[-1] if records else {"iter": 0}
    return last["iter"] >= total or not all(math.isfinite(last.get(name, 0.0)) for name in ("train_loss", "val_loss"))


def follow(folders: Sequence[str], path: str, seconds: float) -> None:
    """Draw the runs whenever they have progressed, until all have ended."""
    drawn, ended = None, False
    while not ended:
        runs = read(folders, live=True)
        last = {name: records[-1]["iter"] if records else 0 for name, (_, records) in runs.items()}
        if runs and last != drawn:
            draw(runs, path)
            drawn = last
        ended = len(runs) == len(folders) and all(map(at_end, runs.values()))
        if not ended:
            time.sleep(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="OUT_DIR", help="folder of a run, or one folder of results/")
    parser.add_argument("--out", help="PNG file to write (default: curves.png in their common folder)")
    parser.add_argument(
        "--follow", nargs="?", type=float, const=10.0, metavar="SECONDS", help="draw live runs again and again"
    )
    args = parser.parse_args()
    if (summary := Path(args.folders[0], "summary.json")).exists() and len(args.folders) == 1:
        if args.out or args.follow:
            raise UserError(
                f"{summary.parent}: a folder of results/ is drawn in its place: leave out --out and --follow"
            )
        try:
            it = json.loads(summary.read_text())
            name, scale = it["name"], it["scale"]
            place = store.RESULTS / name / scale
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{summary} is not a summary of scripts/reproduce.py") from None
        if summary.parent.resolve() != place.resolve():
            raise UserError(f"{summary.parent}: {name} at scale {scale} is drawn in {place} alone")
        return laboratory.reproduce(name, scale, draw=True)
    if args.follow is not None and not args.follow > 0:
        raise UserError(f"--follow {args.follow:g}: the seconds between two pictures must be more than 0")
    folders = list(dict.fromkeys(map(os.path.normpath, args.folders)))
    path = args.out or os.path.join(common(folders), "curves.png")
    if args.follow is None:
        draw(read(folders), path)
    else:
        print(f"{path} is drawn every {args.follow:g} seconds, until the runs have ended or Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            follow(folders, path, args.follow)
    print(path)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
