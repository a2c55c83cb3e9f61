"""Draw a run from its metrics.jsonl: losses, and the optimizer's coefficients where it learns any; or a figure of the paper.

python scripts/plot.py OUT_DIR                # writes OUT_DIR/curves.png
python scripts/plot.py results/fig5/cpu       # again from the metrics in results/: reproduce.py fig5 --scale cpu --draw
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
from reproduce import drawing, laboratory
from settings import UserError, one_line_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="OUT_DIR", help="folder of a run, with its metrics.jsonl, or one of results/")
    out_dir = parser.parse_args().folder
    if (summary := Path(out_dir, "summary.json")).exists():
        it = json.loads(summary.read_text())
        return laboratory.reproduce(it["name"], it["scale"], draw=True)
    try:
        header, records = metrics.read(out_dir)
    except OSError:
        raise UserError(f"{out_dir}: there is no {metrics.FILE}; name the out_dir of a run of train.py") from None
    except ValueError:
        raise UserError(f"{out_dir}: there is no run in its {metrics.FILE}") from None
    path = os.path.join(out_dir, "curves.png")
    drawing.run(header, records, path)
    print(path)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
