"""results/README.md: verdicts by a criterion, and every number in it from the committed data.

python -m pytest -q tests/reproduce/test_findings.py        # seconds
"""

import csv
import json
import re
from statistics import mean, stdev

import pytest

from reproduce import ROOT, contest_drawing, experiments, figure_findings, pages, questions, table_findings
from reproduce.figures import LOGS, early, phases
from reproduce.findings import Finding, verdict
from reproduce.outcomes import Ended
from reproduce.published import PAPER, authors

RESULTS = ROOT / "results"
README = (RESULTS / "README.md").read_text()
TOP = README.split("\n## ")[0]


def finding(*holds):
    return Finding("", "", {str(i): it for i, it in enumerate(holds)}, [])


def test_a_verdict_is_what_the_checks_and_the_scale_say():
    assert verdict(None, True) == verdict(None, False) == "not run"
    assert verdict(finding(True, True), True) == "reproduced"
    assert verdict(finding(True, True), False) == "holds at reduced scale"
    assert verdict(finding(True, False), True) == "not reproduced"
    assert verdict(finding(True, False), False) == "not reproduced at this scale"


def test_the_page_is_made_of_the_committed_data():
    assert pages.index(RESULTS) == README, "python scripts/reproduce.py index"


PAGES = sorted(path for name in questions.NAMES for path in RESULTS.glob(f"{name}/*/README.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parts[-3])
def test_a_page_of_a_question_is_made_of_the_committed_data(path, tmp_path, monkeypatch):
    for name in ("against", "bars", "front", "paths", "task"):  # pictures are not compared
        monkeypatch.setattr(contest_drawing, name, lambda *arguments: None)
    name, scale = path.parts[-3:-1]
    blocks = questions.NAMES[name][1](scale, tmp_path)["blocks"]
    command = f"python scripts/reproduce.py {name} --scale {scale} --draw"
    assert (tmp_path / "README.md").read_text() == path.read_text(), command
    for page in questions.PAGES:
        text = page.read_text()
        for key, block in blocks.items():
            start = f"<!-- {key}: made by `{command}` -->\n"
            assert start not in text or f"{start}{block}\n<!-- end of {key} -->" in text, (page, key)


def test_the_table_of_claims_is_one_screen():
    rows = [line for line in TOP.splitlines() if line.startswith("|")]
    assert len(rows) <= 25
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4 and all(len(cell) <= 160 for cell in cells), row
    said = [row.split("|")[-2].strip() for row in rows[2:]]
    assert {*said} <= {
        "reproduced",
        "holds at reduced scale",
        "not reproduced",
        "not reproduced at this scale",
        "not run",
    }
    assert all(f"](#{name})" in TOP and f"\n## {name}\n" in README for name in experiments.NAMES)


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#][^)]*)\)", README):
        assert (RESULTS / target).exists(), target


def section(name):
    return README.split(f"\n## {name}\n")[1].split("\n## ")[0]


def last(path, key):
    return [json.loads(line)[key] for line in path.read_text().splitlines() if f'"{key}"' in line][-1]


def runs(name, row, key, lineup="gpt2", scale="cpu", seeds=3):
    """The last value of a key of a row's seeds, read without the code under test."""
    folder = RESULTS / name / scale / "runs" / lineup
    return [last(folder / f"{row}-seed{seed}.jsonl", key) for seed in range(1337, 1337 + seeds)]


def test_table_2_counted_again():
    for scale, seeds in (("mini", 6), ("cpu", 3)):
        adam, mada = (runs("table2", row, "val_loss", scale=scale, seeds=seeds) for row in ("adam", "mada"))
        gap = mean(b - a for a, b in zip(adam, mada, strict=True))
        said = f"MADA {mean(mada):.4f}, Adam {mean(adam):.4f}: {gap:+.4f} ± "
        assert said in TOP if scale == "mini" else f"{gap:+.4f} ± " in section("table2")
    assert "worse (3/3)" in section("table2")
    adam, authors = (runs("table2", row, "val_loss", scale="mini", seeds=6) for row in ("adam", "mada-rule=authors"))
    assert all(b < a for a, b in zip(adam, authors, strict=True))
    faster = runs("table2", "adam-lr-x2", "val_loss", scale="mini")
    assert max(faster) < min(adam[:3]) and f"Adam is best at x2 ({mean(faster):.3f}" in section("table2")
    at_4 = [runs("table2", f"{row}-lr-x4", "val_loss") for row in ("adam", "mada")]
    pairs = [b - a for a, b in zip(*at_4, strict=True)]
    assert sorted(round(pair, 3) for pair in pairs) == [-0.015, 0.025, 0.651]
    assert "+0.651, -0.015 and +0.025 compared with Adam's" in section("table2")
    assert min(runs("table2", "mada-fs-lr-x16", "val_loss")) == pytest.approx(2.246, abs=5e-4)
    assert "The lowest run of all is MADA-FS's at x16 (2.246)" in section("table2")
    assert "losses of 3.220, 2.544 and 2.133" in section("table2")


def test_figure_8_says_what_the_authors_cells_say():
    with open(PAPER / "authors_shakespeare_grid.csv") as file:
        cells = {}
        for row in csv.DictReader(file):
            cells.setdefault((row["beta1_0"], row["beta2_0"]), {})[row["optimizer"]] = row
    assert len(cells) == 275
    for key, words in (
        ("final_train_loss", "training loss in 97.8 % of 275 cells"),
        ("final_val_loss", "validation loss in 2.5 %"),
    ):
        share = mean(float(cell["mada"][key]) < float(cell["adam"][key]) for cell in cells.values())
        assert f"{100 * share:.1f} %" in words and words in section("fig8")
    names = ("mada", "hyperadam", "adam")
    means = {name: mean(float(cell[name]["final_val_loss"]) for cell in cells.values()) for name in names}
    assert "MADA {mada:.3f}, HyperAdam {hyperadam:.3f}, Adam {adam:.3f}".format(**means) in section("fig8")


def test_table_5_counted_again():
    paper = {"mada": 66.12, "adam": 65.84, "hyperadam": 65.80, "momentum-sgd": 65.97}
    for row, theirs in paper.items():
        assert f"{theirs - mean(runs('table5', row, 'accuracy', 'cnn')):.1f} (" in section("table5")
    assert "| MADA | 66.12 ± 0.14 | 63.04 ± 0.62 | 64.24 ± 0.43 |" in section("table5")


def test_what_is_typed_of_the_contest_counted_again():
    lines = map(json.loads, (RESULTS / "contest" / "cpu" / "shakespeare.jsonl").read_text().splitlines())
    cells = {}
    for it in lines:
        if it["betas"] == [0.9, 0.95] and it["row"] in ("AdamW", "MADA"):
            key = it["row"], "grad_clip" in it["conditions"], it["rate"]
            cells.setdefault(key, []).append(it["value"])
    costs = {}
    for row in ("AdamW", "MADA"):
        free, clipped = (min(mean(cells[key]) for key in cells if key[:2] == (row, off)) for off in (True, False))
        costs[row] = f"{100 * (free / clipped - 1):.0f} %"
    front = (ROOT / "README.md").read_text()
    assert f"it ends {costs['MADA']} higher than with clipping under MADA, and {costs['AdamW']} under AdamW" in front
    page = (RESULTS / "contest" / "cpu" / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| MADA (the paper's settings) |"))
    said = (ROOT / "docs" / "hyper_gradients.md").read_text().replace("\n", " ")
    paper, ours = re.findall(r"(\d+) of 144 (\(\d+ %\))", row)[1:3]
    assert "no worse than AdamW in {} {}, and with the defaults in {} {}".format(*paper, *ours) in said


def test_the_early_lead_is_said():
    def at_100(row):
        folder = RESULTS / "table2" / "cpu" / "runs" / "gpt2"
        found = []
        for seed in (1337, 1338, 1339):
            records = map(json.loads, (folder / f"{row}-seed{seed}.jsonl").read_text().splitlines()[1:])
            found.append(next(record["val_loss"] for record in records if record["iter"] == 100))
        return found

    adam, mada, from_zero = at_100("adam"), at_100("mada"), at_100("mada-rho-0-=-0")
    for label, row in (("MADA", mada), ("MADA (rho_0 = 0)", from_zero)):
        pairs = [a - b for a, b in zip(row, adam, strict=True)]
        said = f"{label} {mean(pairs):+.4f} ± {stdev(pairs) / 3**0.5:.4f}, better (3/3)"
        assert max(pairs) < 0 and said in section("fig3")


def test_early_means_the_authors_percentages_where_they_were_evaluated():
    def ended(gap, **config):
        records = [{"iter": it, "val_loss": 3.0 - it / 1e4 + gap * it} for it in range(0, 1001, 100)]
        header = {"config": {"max_iters": 1000, "lr_decay_iters": None} | config}
        return {1: [Ended(seed, header, records, {}) for seed in (1, 2)]}

    logs = {label: authors(log) for label, log in LOGS.items()}
    rows = {"Adam": ended(0, lr_decay_iters=10_000), "MADA": ended(-1e-4)}
    found = early(rows, ["Adam", "MADA"], logs)
    assert [it["step"] for it in found] == [200, 500, 1000] and [it["percent"] for it in found] == [2, 5, 10]
    assert found[1]["gaps"]["MADA"]["mean"] == pytest.approx(-0.05)
    assert found[0]["authors"]["MADA"] == pytest.approx(3.7664 - 3.8244)  # their logs at step 2,000
    (alone,) = early({"Adam": ended(0, max_iters=900)}, ["Adam"], logs)
    assert alone["step"] == 100 and alone["gaps"] == {}


def test_the_authors_own_logs_pass_the_checks_that_ours_are_put_to():
    for log in ("mada_rho0_beta3_0", "mada_poor_init"):
        assert phases(authors(log)["beta1"]) == 2 and phases(authors(log)["rho"]) == 3
    assert authors("mada_rho0_beta3_0.9")["beta1"][-1] >= 0.985
    assert phases([0.0, 0.01, 0.0]) == 0 and phases([0.0, 0.5, 0.49, 0.6]) == 1 and phases([0.0, 0.5, 0.4]) == 2


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*/table.md")), ids=lambda path: "-".join(path.parts[-3:-1]))
def test_a_reduced_table_begins_with_what_is_reduced(path):
    first, scale = path.read_text().splitlines()[0], path.parent.name
    assert first.startswith(
        (f"Reduced ({scale}), ours and in brackets the paper's: ", "Full scale. ", "T = 2,000 steps")
    )


def test_what_depends_on_the_numbers_is_said_where_it_is_so():
    losses = [3.22, 2.54, 2.13]
    assert "which symbol follows which" in table_findings.counted(losses, 2.53)
    assert "Adam is 0.34 below bigrams" in table_findings.counted(losses, 2.2)
    labels = ("MADA", "Adam", "HyperAdam", "Momentum SGD")
    rows = {
        label: {"ours": {"accuracy": {"mean": 60.0, "values": {1337: 60.0}}, "best epoch": {"mean": 62.0}}}
        for label in labels
    }
    numbers = {label: [65.0] for label in labels}
    assert not any("mirror" in it for it in table_findings.accuracies(rows, numbers))
    rows["Adam (augmented)"] = {"ours": {"accuracy": {"mean": 61.5, "values": {1337: 61.5}}}}
    assert "take Adam to 61.50 after as many epochs, where it has 60.00" in table_findings.accuracies(rows, numbers)[-1]


def test_perplexities_that_were_not_taken_are_no_finding():
    rows = {label: {"gaps": {"openwebtext": None}, "ours": {}} for label in ("Adam", "MADA")}
    assert table_findings.perplexities({"rows": rows, "columns": ["openwebtext"]}, "table3", "gpt2") is None


def test_what_has_not_been_run_with_adam_is_no_finding():
    rows = {"MADA": {"gaps": {"val_loss": None}, "ours": {}}, "Adam": {"gaps": {}, "ours": {}}}
    assert table_findings.losses({"rows": rows, "columns": ["val_loss"]}, "table2", "gpt2") is None
    assert figure_findings.curves({"results": {"Adam": {}}, "authors": {}}, "fig3") is None
    assert figure_findings.coefficients({"results": {}, "authors": {}}, "fig5", {}) is None


def test_figures_5_and_6_are_compared_by_seed():
    def results(**ends):
        names = ("beta1", "beta2", "beta3", "rho")
        return {
            seed: {key: {"start": 0, "warm": 0, "high": end, "end": end} for key in names} for seed, end in ends.items()
        }

    fig5 = {"results": {"MADA (rho_0 = 0)": results(a=0.2, b=0.5)}, "authors": results(x=0.1)["x"]}
    label = figure_findings.NAMES["fig6"].rest[0]
    for ends, farther in (({"b": 0.3}, False), ({"b": 0.6}, True), ({"c": 0.9}, False)):
        it = {"results": {label: results(**ends)}, "authors": fig5["authors"]}
        assert list(figure_findings.coefficients(it, "fig6", {"fig5": fig5}).checks.values()) == [farther]
