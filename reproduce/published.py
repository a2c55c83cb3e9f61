"""The paper's numbers and the authors' logs, in results/paper/."""

import csv
import json

from reproduce import ROOT

PAPER = ROOT / "results" / "paper"
PUBLISHED = json.loads((PAPER / "tables.json").read_text())
STEPS = 100_000  # of the authors' runs on OpenWebText


def rows_of(name: str, lineup: str | None) -> dict[str, list[float]]:
    """{row: numbers} of a table, of the lineup's own part where it has parts."""
    return PUBLISHED[name].get(lineup) or PUBLISHED[name].get("rows", {})


def authors(log: str, part: float = 1.0) -> dict[str, list[float]]:
    """{column: values} of the authors' log authors_owt_LOG.csv, thinned; part: of its steps, from the first on."""
    with open(PAPER / f"authors_owt_{log}.csv") as file:
        rows = [row for row in csv.DictReader(file) if float(row["iteration"]) <= part * STEPS]
    return {key: [float(row[key]) for row in rows] for key in rows[0]}
