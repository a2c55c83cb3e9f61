"""The paper's numbers and the authors' logs, in results/paper/."""

import csv
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "results" / "paper"
PUBLISHED = json.loads((PAPER / "tables.json").read_text())


def authors(log: str) -> dict[str, list[float]]:
    """The authors' log authors_owt_LOG.csv, thinned, by column."""
    with open(PAPER / f"authors_owt_{log}.csv") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
