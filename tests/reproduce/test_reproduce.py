"""scripts/reproduce.py: rows become runs, runs become tables and figures, at smoke scale.

python -m pytest -q tests/reproduce/test_reproduce.py        # under a minute
"""

import json
import sys

import pytest
import tiny

sys.path.insert(0, str(tiny.ROOT / "scripts"))
import measure
import plot
import reproduce
import show

import config.reproduce as rows
import data.tokens
from settings import UserError


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for results, and the tiny data set under the name of Shakespeare's."""
    folder = tiny.write_data(tmp_path / "data")
    (folder / "tiny").rename(folder / "shakespeare_char")
    monkeypatch.setattr(data.tokens, "FOLDER", folder)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "WORK", tmp_path / "runs")
    monkeypatch.setattr(reproduce, "tried", set())
    return tmp_path / "results"


def summary(results, name, scale="smoke"):
    return json.loads((results / name / scale / "summary.json").read_text())


def test_every_row_of_every_scale_is_a_run(results):
    for name, contest in rows.CONTESTS.items():
        for scale in contest.scales:
            found = reproduce.cells(name, scale, None, grid=True)
            assert len({cell.id for cell in found.values()}) == len(found)  # no row says the same as another
    for name, (how, contests, _) in rows.NAMES.items():
        assert name in show.PUBLISHED and all(contest in rows.CONTESTS for contest in contests)
        assert hasattr(reproduce.figures if name.startswith("fig") else show, how)


def test_a_table_is_made_resumed_and_drawn_again(results, monkeypatch):
    contest = rows.CONTESTS["gpt2-medium"]
    reproduce.reproduce("table7", "smoke", seeds=2, workers=0, grid=False)
    found = summary(results, "table7")["results"]["gpt2-medium"]
    assert len(found) == len(contest.rows)
    assert {row["ours"]["loss"]["n"] for row in found.values()} == {2} and found["MADA"]["paper"][0] == 2.6422
    text = (results / "table7" / "smoke" / "table.md").read_text()
    assert text.startswith("smoke: ") and "| Adam | 2.6527 |" in text and str(results.parent) not in text
    monkeypatch.setattr(reproduce, "execute", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(reproduce, "WORK", results / "none")  # a clean clone: what results/ holds is not run again
    reproduce.reproduce("table7", "smoke", seeds=2, workers=0, grid=False)
    assert summary(results, "table7")["results"]["gpt2-medium"] == found
    monkeypatch.setattr(sys, "argv", ["plot.py", str(results / "table7" / "smoke")])
    plot.main()  # from the committed metrics alone
    assert summary(results, "table7")["results"]["gpt2-medium"] == found
    for path in results.rglob("*.jsonl"):
        assert str(results.parent) not in path.read_text()
    assert len(list(results.rglob("*.jsonl"))) == 2 * len(contest.rows)


def test_perplexities_belong_to_their_run(results, monkeypatch):
    """Those of another run, or of data that were missing, are taken when they can be; a diverged run has none."""
    smoke = rows.GPT2_SCALES["smoke"]._replace(
        evaluated={
            "openwebtext": ("shakespeare_char", "val"),
            "wikitext": ("wikitext", "val"),
            "lambada": ("lambada", "test"),
        }
    )
    only = rows.CONTESTS["gpt2-medium"]._replace(
        rows={"Adam": rows.CONTESTS["gpt2-medium"].rows["Adam"]}, scales={"smoke": smoke}
    )
    monkeypatch.setitem(reproduce.CONTESTS, "gpt2-medium", only)
    reproduce.reproduce("table7", "smoke", seeds=1, workers=0, grid=False)
    taken = summary(results, "table7")["results"]["gpt2-medium"]["Adam"]["ours"]
    assert taken["openwebtext"]["n"] == 1 and taken["wikitext"]["n"] == 0
    path = reproduce.file_of("gpt2-medium", "smoke", "Adam", 1, 1337)
    extra = path.with_suffix(".evaluation.json")
    known = json.loads(extra.read_text())
    extra.write_text(json.dumps(known | {"run": "another"}))
    assert reproduce.gather("gpt2-medium", "smoke")["Adam"][1][0].evaluation == {}
    (data.tokens.FOLDER / "wikitext").symlink_to(data.tokens.FOLDER / "shakespeare_char")
    reproduce.reproduce("table7", "smoke", draw=True)
    (ended,) = reproduce.gather("gpt2-medium", "smoke")["Adam"][1]
    assert ended.perplexity("wikitext") == ended.perplexity("openwebtext") == known["openwebtext"]["perplexity"]
    ended.header["diverged"] = True
    assert ended.perplexity("wikitext") != ended.perplexity("wikitext") and ended.perplexity("x") != ended.perplexity(
        "x"
    )


def test_a_column_that_is_taken_at_one_learning_rate_has_no_best_one():
    def ended(**evaluation):
        return [show.Ended(seed, {"diverged": False}, [{"val_loss": 2.0}], evaluation) for seed in range(2)]

    runs = {label: {1: ended(a={"perplexity": 7.0}), 4: ended()} for label in ("Adam", "MADA")}
    columns = {"loss": lambda run: run.value("val_loss"), "a": lambda run: run.perplexity("a")}
    for name in columns:
        head, lines, summary = show.contest_rows(
            runs, "gpt2", ("Adam", "MADA"), {name: columns[name]}, {"Adam": [1.0]}, False, 4
        )
        assert ("best lr" in head) == (name == "loss") == any("best" in words for words in summary["ours"])
        assert all(len(line) == len(head) for line in lines)


def test_best_of_whole_sets_of_seeds():
    def ended(*losses):
        return [show.Ended(seed, {}, [{"val_loss": loss}], {}) for seed, loss in enumerate(losses)]

    factors = {1: ended(3.0, 3.0), 4: ended(2.0, 2.2), 16: ended(1.0), 64: ended(1.0, float("nan"))}
    assert show.best_of(factors, lambda run: run.value("val_loss"), "lower") == 4


def test_runs_with_other_settings_and_missing_seeds_are_left_out(results, monkeypatch, capsys):
    reproduce.reproduce("table7", "smoke", seeds=2, workers=0, grid=False)
    reproduce.file_of("gpt2-medium", "smoke", "Adam", 1, 1337).unlink()
    path = reproduce.file_of("gpt2-medium", "smoke", "MADA", 1, 1338)
    header, *records = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"run": "another"}), *records]))
    found = reproduce.gather("gpt2-medium", "smoke")
    assert [[run.seed for run in found[label][1]] for label in ("Adam", "MADA")] == [[1338], [1337]]
    assert "mada-seed1338.jsonl is left out" in capsys.readouterr().out


def test_mada_fs_starts_where_mada_ended(results, monkeypatch):
    few = {
        label: row for label, row in rows.CONTESTS["gpt2"].rows.items() if label in ("Adam", "MADA", "MADA-FS", "MADA-")
    }
    monkeypatch.setitem(reproduce.CONTESTS, "gpt2", rows.CONTESTS["gpt2"]._replace(rows=few))
    reproduce.reproduce("fig7", "smoke", seeds=1, workers=0, grid=False)
    ends = {label: show.read(reproduce.file_of("gpt2", "smoke", label, 1, 1337)) for label in few}
    header, _records = ends["MADA-FS"]
    last = ends["MADA"][1][-1]["coefficients"]
    assert {name: header["config"][name] for name in last} == last and header["config"]["learn"] == []
    assert (results / "fig7" / "smoke" / "figure.png").exists()
    assert summary(results, "fig7")["authors_last"]["beta1"] == 0.99


def test_differences_within_the_spread_are_called_that():
    a, b, c = (show.spread(dict(enumerate(values))) for values in ([1.0, 1.2], [1.1, 1.3], [3.0, 3.1]))
    assert show.gap(b, a, "lower", 2)[0] == "+0.10, within the spread (2/2 seeds)"
    assert show.gap(show.spread({0: 0.9, 1: 1.4}), a, "lower", 2)[0] == "+0.05, within the spread (1/2 seeds)"
    assert show.gap(c, a, "lower", 2)[0].endswith("worse (2/2 seeds)")
    assert show.gap(c, a, "higher", 2)[0].endswith("better (2/2 seeds)")
    assert show.gap(show.spread({0: 1.0}), a, "lower", 2)[0].endswith("(one seed)")
    found = show.spread({1: 1.0, 2: float("nan"), 3: None})
    assert found | {"values": [*found["values"]]} == {"n": 2, "diverged": 1, "mean": 1.0, "sd": None, "values": [1, 2]}
    assert show.gap(show.spread({1: 1.0, 3: 3.0}), show.spread({1: 1.5, 2: 0.0, 3: 1.0}), "lower", 2)[0].endswith(
        "(1/2 seeds)"
    )


@pytest.mark.parametrize("name", ["fig1", "fig9"])
def test_figures_without_a_model(results, name):
    reproduce.reproduce(name, "smoke", workers=0)
    assert (results / name / "smoke" / "figure.png").stat().st_size > 10_000
    assert "it ran" in show.index(results) and "figure.png" not in show.index(results)  # smoke proves nothing
    (results / name / "smoke").rename(results / name / "cpu")
    found = results / name / "cpu" / "summary.json"
    found.write_text(found.read_text().replace('"smoke"', '"cpu"'))
    assert f"({name}/cpu/figure.png)" in show.index(results)


def test_the_grid_of_figure_8_over_seeds(results, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce.figures, "ROOT", tmp_path)  # where out/sweeps is
    monkeypatch.setitem(
        reproduce.NAMES,
        "fig8",
        ("grid", (), {"smoke": ("toy", tiny.ROOT / "config" / "sweep_shakespeare_betas_smoke.py", 2)}),
    )
    reproduce.reproduce("fig8", "smoke", workers=0)
    found = summary(results, "fig8")
    assert found["n"] == 2 and [it["cells"] for it in found["results"]["ours"]] == [4, 4]
    assert found["results"]["authors"]["share of cells where MADA is below adam"] == pytest.approx(
        269 / 275
    )  # their table
    (tmp_path / "out").rename(tmp_path / "gone")
    reproduce.reproduce("fig8", "smoke", draw=True)
    assert summary(results, "fig8") == found


def test_diverged_cells_are_the_worst():
    rows = [
        {"optimizer": name, "beta1_0": 0.1, "beta2_0": beta2, "final_train_loss": loss}
        for beta2, losses in (
            (0.5, (float("nan"), 2.0, 1.0)),
            (0.6, (float("nan"), 2.0, float("nan"))),
            (0.7, (1.0, 2.0, 3.0)),
        )
        for name, loss in zip(("adam", "hyperadam", "mada"), losses, strict=True)
    ]
    found = reproduce.figures.shares(rows)
    assert found["share of cells where MADA is below adam"] == pytest.approx(1 / 3)
    assert found["share of cells where MADA is below hyperadam"] == pytest.approx(1 / 3)
    assert found["median of mada"] == 3.0 and found["median of adam"] == float("inf")


def test_failed_runs_are_said_once_and_tried_again(results, capsys, monkeypatch):
    there = data.tokens.FOLDER
    monkeypatch.setattr(data.tokens, "FOLDER", results)  # no data there
    monkeypatch.setattr(
        sys, "argv", ["reproduce.py", "table7", "--scale", "smoke", "--seeds", "1", "--workers", "0", "--no_grid"]
    )
    with pytest.raises(UserError, match="^3 failed: dataset='shakespeare_char': there is no data/shakespeare_char"):
        reproduce.main()
    assert not list(results.rglob("*.md"))
    with pytest.raises(UserError, match="^table4 has no scale cpu; it has smoke, paper"):
        reproduce.reproduce("table4", "cpu")
    monkeypatch.setattr(data.tokens, "FOLDER", there)
    monkeypatch.setattr(reproduce, "tried", set())  # another process
    reproduce.main()
    assert summary(results, "table7")["n"] == "1"
    assert summary(results, "table7")["command"].endswith("table7 --scale smoke --seeds 1 --no_grid")


def test_all_goes_on_after_what_cannot_be_done(results, monkeypatch):
    done = []

    def reproduce_one(name, *rest):
        done.append(name)
        if name == "fig8":
            raise UserError("no data")
        return ["out of memory"] if name == "table7" else []

    monkeypatch.setattr(reproduce, "reproduce", reproduce_one)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "all", "--scale", "cpu"])
    with pytest.raises(UserError, match="^2 failed: out of memory; no data; the same command tries again"):
        reproduce.main()
    assert done == [name for name in rows.NAMES if name != "table4"]  # which has no cpu scale


def test_profile_measures_processes_of_its_own(results, monkeypatch, tmp_path):
    script = tmp_path / "measure.py"  # the real one, on the tiny data set
    script.write_text(
        f"import sys\nsys.path[:0] = {[str(tiny.ROOT), str(tiny.ROOT / 'scripts')]}\n"
        f"import settings, data.tokens, measure\ndata.tokens.FOLDER = {str(data.tokens.FOLDER)!r}\n"
        "with settings.one_line_errors('measure.py'):\n    measure.main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(measure, "__file__", str(script))
    settings = ("--batch_size=8", "--micro_batch_size=2", "--max_iters=5")
    monkeypatch.setitem(show.PROFILE, "smoke", ("toy", ("config/scale_gpt2_smoke.py",), {"": settings}, 2))
    few = {label: rows.NAMES["profile"][2][label] for label in ("Adam", "MADA")}
    monkeypatch.setitem(reproduce.NAMES, "profile", ("profile", (), few))
    reproduce.reproduce("profile", "smoke")
    found = summary(results, "profile")
    assert {it["ranks"] for it in found["results"].values()} == {2} and found["paper"][0] == "Adam 15.5 GB, 0.65 s"
    assert all(it["peak_gb"] > 0.05 and it["seconds"] > 0 for it in found["results"].values())
    monkeypatch.setattr(show, "measure", lambda *args: 1 / 0)
    reproduce.reproduce("profile", "smoke")  # nothing is measured twice
    assert summary(results, "profile")["results"] == found["results"]
    with pytest.raises(UserError, match="n_embd=16 must be a multiple"):
        measure.measure(["config/train_gpt2_adam.py", "config/scale_gpt2_smoke.py", "--n_head=3"])
