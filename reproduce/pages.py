"""results/README.md, from the summaries: claims and verdicts, then for each name sentences, picture and table."""

import json
import re
from pathlib import Path
from statistics import mean, stdev

from reproduce import figure_findings, findings, table_findings
from reproduce.experiments import NAMES, SCALES
from reproduce.outcomes import read
from reproduce.published import PUBLISHED, rows_of

TOP = """# Results

Beyond the paper:
{other}

What the paper claims:

| claim | the paper | ours | verdict |
|---|---|---|---|
{rows}

A verdict is computed ([findings.py](../reproduce/findings.py)): a claim holds if all the checks that stand under "how"
hold; seeds are compared in pairs, and a difference counts if it is more than two standard errors of its mean. A claim
that holds is "reproduced" at the paper's own proportions and "holds at reduced scale" at others; one that does not is
"not reproduced". Of the scales, the largest that was run is shown: {scales}. ± is the standard error of the paired
difference, and (5/6) says that five of six seeds have its sign. MADA-FS has its coefficients fixed where a run of MADA
ended; MADA- and Adam- start from betas (0.7, 0.8). Remade by `python scripts/reproduce.py index`.
"""
WHY_NOT = {
    "table4": "It needs the weights of GPT-2 XL. "
    "The paper's training losses there are too low for nats per token after two epochs; "
    "it does not say what they count.",
    "resnet9": "It needs a GPU.",
}
# {kind: a function of part (of a summary), name, lineup (None: part is all of it), others: {name: summary at a scale}}
READERS = {
    "losses": table_findings.losses,
    "perplexities": table_findings.perplexities,
    "profile": table_findings.profile,
    "bound": figure_findings.bound,
    "proposition": figure_findings.proposition,
    "curves": figure_findings.curves,
    "coefficients": figure_findings.coefficients,
    "grid": figure_findings.grid,
    "convex": figure_findings.convex,
}


def summaries(results: Path) -> dict[str, dict[str, dict]]:
    """{name: {scale: summary}}, largest scale first, without smoke, whose numbers mean nothing."""
    found = {}
    for name in NAMES:
        for scale in reversed(SCALES[1:]):
            path = results / name / scale / "summary.json"
            if path.exists():
                found.setdefault(name, {})[scale] = json.loads(path.read_text())
    return found


def entries(found: dict) -> list[tuple[str, str | None, dict[str, tuple[dict, findings.Finding]]]]:
    """(name, lineup, {scale: (its part of the summary, finding)}) of each claim, in the order of NAMES."""
    every = []
    for name, it in NAMES.items():
        for lineup in it.lineups if it.kind in ("losses", "perplexities") else (None,):
            shown = {}
            for scale, summary in found.get(name, {}).items():
                others = {other: at[scale] for other, at in found.items() if scale in at}
                part = summary["lineups"].get(lineup) if lineup else summary
                if finding := part and READERS[it.kind](part, name=name, lineup=lineup, others=others):
                    shown[scale] = part, finding
            every.append((name, lineup, shown))
    return every


def row(name: str, lineup: str | None, part: dict | None, found: findings.Finding | None) -> str:
    """A line of the table of claims."""
    source = PUBLISHED[name]["source"].split(",")[0].split(";")[0]
    which = f" ({lineup})" * (len(NAMES[name].lineups) > 1 and lineup is not None)
    paper = found.paper if found else short(name, lineup)
    verdict = findings.verdict(found, bool(part and part["full_scale"]))
    return f"| [{source}](#{name}){which}: {NAMES[name].claim} | {paper} | {found.ours if found else '-'} | {verdict} |"


def short(name: str, lineup: str | None) -> str:
    """The paper's numbers, where we have none."""
    rows = rows_of(name, lineup)
    return ", ".join(f"{label} {rows[label][0]:g}" for label in ("MADA", "Adam") if label in rows) or "-"


def folded(summary: str, lines: list[str]) -> list[str]:
    return ["<details><summary>" + summary + "</summary>", "", *lines, "", "</details>", ""]


def table(path: Path, lineup: str | None) -> tuple[list[str], list[str]]:
    """Two parts of a table.md: all up to the table, and what is said about how it was made."""
    parts = re.split(r"\n(?=Reduced \(|Full scale)", path.read_text())
    text = next((part for part in parts if lineup is None or f", {lineup};" in part), parts[0])
    blocks = [block for block in text.strip().split("\n\n") if not block.startswith("# ")]
    shown = next(i for i, block in enumerate(blocks) if block.startswith("|"))
    return blocks[: shown + 1], [block for block in blocks[shown + 1 :] if "not a part of this scale" not in block]


def section(results: Path, name: str, scale: str, lineup: str | None, part: dict, found: findings.Finding) -> list[str]:
    """Sentences, picture, table; provenance folded away."""
    folder, summary = results / name / scale, json.loads((results / name / scale / "summary.json").read_text())
    verdict = findings.verdict(found, part["full_scale"])
    lines = [f"**{verdict[0].upper()}{verdict[1:]}** ({scale}). " + " ".join(found.sentences), ""]
    pictures = [folder / f"figure-{lineup}.png"] if (folder / f"figure-{lineup}.png").exists() else []
    pictures = pictures or [path for path in (folder / "figure.png", folder / "authors.png") if path.exists()]
    lines += [f"![{name}]({path.relative_to(results)})" for path in pictures] + [""] * bool(pictures)
    made = [f"- {'holds' if holds else 'does not hold'}: {check}" for check, holds in found.checks.items()]
    made += ["", f"`{summary['command']}`, {summary['date']}. {part['conditions']}"]
    if (folder / "table.md").exists():
        shown, after = table(folder / "table.md", lineup)
        lines += ["\n\n".join(shown), ""]
        made += ["", *[text for text in after if text != part["conditions"]]]
    else:
        lines += [part["note"], ""]
    files = sorted(folder.glob("*.csv")) or [it for it in sorted(folder.glob("*.json")) if it.name != "summary.json"]
    logs = summary["logs"] or [str(path.relative_to(results)) for path in files]
    made += ["", "Data: " + ", ".join(f"[{log}]({log})" for log in logs)]
    return lines + folded("how", made)


def smaller(results: Path, name: str, scale: str, found: findings.Finding) -> list[str]:
    """What a smaller scale says, with links to its pages."""
    folder = results / name / scale
    pages = [it for it in ("README.md", "table.md", "figure.png") if (folder / it).exists()]
    links = ", ".join(f"[{it}]({name}/{scale}/{it})" for it in pages)
    return [f"At {scale} scale ({links}): {found.ours}. {' '.join(found.sentences)}", ""]


def other_pages(results: Path) -> str:
    """Links to what is not in the paper, by the pages' own titles."""
    lines = []
    for path in sorted([*results.glob("*/README.md"), *results.glob("*/*/README.md")]):
        where, title = path.relative_to(results), path.read_text().splitlines()[0].removeprefix("# ")
        if where.parts[0] not in NAMES and "smoke" not in where.parts:
            lines.append(f"- [{title}]({where.as_posix()})")
    return "\n".join(lines)


def bench(results: Path) -> list[str]:
    """What a step costs."""
    path = results / "bench" / "bench.json"
    if not path.exists():
        return []
    it = json.loads(path.read_text())
    ms, ratio = ({row["name"]: row[key] for row in it["rows"]} for key in ("ms", "ratio"))
    fixed = [ratio[name] for name in ms if "fixed" in name]
    return [
        "## bench",
        "",
        (
            f"What a step costs: MADA {ratio['mada']:.1f} times fused AdamW's time "
            f"({ms['mada']:.1f} against {ms['adamw']:.1f} ms, medians of {it['rounds']} rounds side by side), "
            f"with nothing learned {min(fixed):.1f} to {max(fixed):.1f} times. {it['title']}. "
            "The floor that is drawn is copy speed; updating in place moves less than a copy, "
            "so that cheap steps lie below it."
        ),
        "",
        "![bench](bench/bench.png)",
        "",
        *folded("how", [f"`{it['command']}`, torch {it['torch']}, commit {str(it['git'])[:7]}."]),
    ]


def bfloat16_state(results: Path) -> list[str]:
    """MADA's state in bfloat16."""
    runs = {}
    for path in sorted((results / "bfloat16_state").glob("*.jsonl")):
        kind, _, seed = path.stem.partition("-seed")
        runs.setdefault(kind, {})[seed] = [it["val_loss"] for it in read(path)[1] if "val_loss" in it][-1]
    if not runs:
        return []
    half, whole = runs["bfloat16"], runs["float32"]
    pairs = [half[seed] - whole[seed] for seed in whole]
    how = (
        "`python train.py config/contest_shakespeare_large.py --max_iters=600 --eval_interval=200 --seed=S "
        "--state_dtype=bfloat16` against the same without it, one thread: [bfloat16_state](bfloat16_state)"
    )
    return [
        "## bfloat16_state",
        "",
        (
            "The moments of the gradient kept in bfloat16: "
            "validation loss after 600 steps of the 0.8M GPT on Shakespeare "
            f"{mean(half.values()):.4f} instead of {mean(whole.values()):.4f}, means of {len(pairs)} seeds. "
            f"In the same seed it is {min(pairs):+.4f} to {max(pairs):+.4f}; "
            f"seeds differ by {stdev(whole.values()):.3f} (standard deviation), "
            "so that the loss is small compared with their noise; it has that sign in all of them."
        ),
        "",
        *folded("how", [how]),
    ]


def index(results: Path) -> str:
    """The text of results/README.md."""
    every = entries(summaries(results))
    scales = ", ".join(dict.fromkeys(next(iter(shown)) for *_, shown in every if shown))
    rows = [row(name, lineup, *next(iter(shown.values()), (None, None))) for name, lineup, shown in every]
    lines, done = [TOP.format(rows="\n".join(rows), scales=scales or "none", other=other_pages(results))], set()
    for name, lineup, shown in every:
        if name not in done:
            done.add(name)
            lines += [f"## {name}", ""]
            lines += [f"The paper's claim: {NAMES[name].claim} ({PUBLISHED[name]['source']}).", ""]
        if len(NAMES[name].lineups) > 1:
            lines += [f"### {lineup}", ""]
        if shown:
            (scale, (part, it)), *others = shown.items()
            lines += section(results, name, scale, lineup, part, it)
            lines += [line for scale, (_, it) in others for line in smaller(results, name, scale, it)]
        else:
            smoke = (results / name / "smoke").exists()
            said = WHY_NOT.get(lineup) or WHY_NOT.get(name, "")
            said += " The smoke scale was run, which shows that the command works." * smoke
            lines += [f"**Not run.** {said}", ""]
    lines += [*bench(results), *bfloat16_state(results)]
    return "\n".join(lines).rstrip() + "\n"
