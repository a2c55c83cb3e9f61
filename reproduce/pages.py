"""results/README.md, from the summaries."""

import json
from pathlib import Path

from reproduce.experiments import NAMES


def index(results: Path) -> str:
    """For now: each table and picture, smoke ones left out."""
    lines = ["# Results", ""]
    for name, it in NAMES.items():
        for path in sorted((results / name).glob("*/summary.json")):
            summary, folder = json.loads(path.read_text()), f"{name}/{path.parent.name}"
            if summary["scale"] == "smoke":
                lines += [f"{name}: it ran.", ""]
                continue
            lines += [f"## {name}, {summary['scale']}", "", f"{it.claim} ({summary['source']}).", ""]
            if (path.parent / "table.md").exists():
                lines += [(path.parent / "table.md").read_text().replace("\n# ", "\n### ")]
            lines += [f"![{name}]({folder}/{picture.name})" for picture in sorted(path.parent.glob("*.png"))]
    return "\n".join(lines) + "\n"
