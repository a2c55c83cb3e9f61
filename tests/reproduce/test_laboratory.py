"""reproduce/: rows become runs, runs become tables and figures, at smoke scale.

python -m pytest -q tests/reproduce/test_laboratory.py        # a minute
"""

import json
import math
from types import SimpleNamespace

import pytest
import tiny

import data.tokens
import train
from reproduce import (
    drawing,
    experiments,
    figures,
    grid,
    laboratory,
    outcomes,
    pages,
    proportions,
    questions,
    runs,
    store,
    tables,
)
from reproduce.laboratory import reproduce
from reproduce.published import PUBLISHED
from settings import UserError


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for results, and the tiny data set under the name of Shakespeare's."""
    folder = tiny.write_data(tmp_path / "data")
    (folder / "tiny").rename(folder / "shakespeare_char")
    monkeypatch.setattr(data.tokens, "FOLDER", folder)
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(store, "WORK", tmp_path / "runs")
    monkeypatch.setattr(laboratory, "tried", set())
    return tmp_path / "results"


def summary(results, name, scale="smoke"):
    return json.loads((results / name / scale / "summary.json").read_text())


def test_every_row_of_every_scale_is_a_run(results):
    for name, lineup in experiments.LINEUPS.items():
        for scale in lineup.scales:
            found = store.cells(name, scale, None, grid=True)
            assert len({cell.id for cell in found.values()}) == len(found)  # no row says the same as another
    for name, it in experiments.NAMES.items():
        assert name in PUBLISHED and all(lineup in experiments.LINEUPS for lineup in it.lineups)
        assert it.kind in laboratory.KINDS and it.claim and laboratory.scales(name)


def test_a_table_is_made_resumed_and_drawn_again(results, script, monkeypatch):
    lineup = experiments.LINEUPS["gpt2-medium"]
    reproduce("table7", "smoke", seeds=2, workers=0, with_grid=False)
    found = summary(results, "table7")["lineups"]["gpt2-medium"]["rows"]
    assert len(found) == len(lineup.rows)
    assert {row["ours"]["loss"]["n"] for row in found.values()} == {2} and found["MADA"]["paper"][0] == 2.6422
    text = (results / "table7" / "smoke" / "table.md").read_text()
    assert text.startswith("Reduced (smoke), ours and in brackets the paper's: data shakespeare_char")
    assert "| Adam | 2.6527 |" in text and str(results.parent) not in text
    monkeypatch.setattr(laboratory, "execute", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(store, "WORK", results / "none")  # a clean clone: what results/ holds is not run again
    reproduce("table7", "smoke", seeds=2, workers=0, with_grid=False)
    assert summary(results, "table7")["lineups"]["gpt2-medium"]["rows"] == found
    assert script("plot", results / "table7" / "smoke")[0] == 0  # from the committed metrics alone
    assert summary(results, "table7")["lineups"]["gpt2-medium"]["rows"] == found
    for path in results.rglob("*.jsonl"):
        assert str(results.parent) not in path.read_text()
    assert len(list(results.rglob("*.jsonl"))) == 2 * len(lineup.rows)


def test_perplexities_belong_to_their_run(results, monkeypatch):
    """Those of another run, or of data that were missing, are measured when they can be; a diverged run has none."""
    columns = {
        "openwebtext": ("shakespeare_char", "val"),
        "wikitext": ("wikitext", "val"),
        "lambada": ("lambada", "test"),
    }
    smoke = experiments.GPT2_SCALES["smoke"]._replace(evaluated=columns)
    whole = experiments.LINEUPS["gpt2-medium"]
    only = whole._replace(rows={"Adam": whole.rows["Adam"]}, scales={"smoke": smoke})
    monkeypatch.setitem(experiments.LINEUPS, "gpt2-medium", only)
    reproduce("table7", "smoke", seeds=1, workers=0, with_grid=False)
    taken = summary(results, "table7")["lineups"]["gpt2-medium"]["rows"]["Adam"]["ours"]
    assert taken["openwebtext"]["n"] == 1 and taken["wikitext"]["n"] == 0
    path = store.file_of("gpt2-medium", "smoke", "Adam", 1, 1337)
    extra = path.with_suffix(".evaluation.json")
    known = json.loads(extra.read_text())
    extra.write_text(json.dumps(known | {"run": "another"}))
    assert store.gather("gpt2-medium", "smoke")["Adam"][1][0].evaluation == {}
    (data.tokens.FOLDER / "wikitext").symlink_to(data.tokens.FOLDER / "shakespeare_char")
    reproduce("table7", "smoke", draw=True)
    (ended,) = store.gather("gpt2-medium", "smoke")["Adam"][1]
    assert ended.perplexity("wikitext") == ended.perplexity("openwebtext") == known["openwebtext"]["perplexity"]
    ended.header["diverged"] = True
    assert math.isnan(ended.perplexity("wikitext")) and math.isnan(ended.perplexity("x"))


def test_a_column_that_is_taken_at_one_learning_rate_has_no_best_one():
    def ended(**evaluation):
        return [outcomes.Ended(seed, {"diverged": False}, [{"val_loss": 2.0}], evaluation) for seed in range(2)]

    found = {label: {1: ended(a={"perplexity": 7.0}), 4: ended()} for label in ("Adam", "MADA")}
    columns = {"loss": lambda run: run.value("val_loss"), "a": lambda run: run.perplexity("a")}
    for name, value in columns.items():
        one = {name: value}
        rows = tables.summarized(found, ("Adam", "MADA"), one, "gpt2", {"Adam": [1.0]})
        head, lines = tables.head_and_lines(rows, one, False, 4)
        assert ("best lr" in head) == (name == "loss")
        assert all(len(line) == len(head) for line in lines)


def test_the_best_rate_is_chosen_over_equal_seeds():
    def ended(*losses):
        return [outcomes.Ended(seed, {}, [{"val_loss": loss}], {}) for seed, loss in enumerate(losses)]

    factors = {1: ended(3.0, 3.0), 4: ended(2.0, 2.2), 16: ended(1.0), 64: ended(1.0, float("nan"))}
    assert outcomes.best_of(factors, lambda run: run.value("val_loss"), "lower") == 4
    factors = {1: ended(2.0, 2.0, 1.0, 1.0), 2: ended(1.9, 1.9)}  # more seeds of one, which happen to end low
    assert outcomes.best_of(factors, lambda run: run.value("val_loss"), "lower") == 2
    assert outcomes.best_of({1: ended(2.0), 2: ended(1.0)}, lambda run: run.value("val_loss"), "higher") == 1


def test_runs_with_other_settings_are_left_out_and_of_another_version_shown_but_run_again(results, capsys):
    reproduce("table7", "smoke", seeds=2, workers=0, with_grid=False)
    store.file_of("gpt2-medium", "smoke", "Adam", 1, 1337).unlink()

    def changed(label, seed, **what):
        path = store.file_of("gpt2-medium", "smoke", label, 1, seed)
        header, *records = path.read_text().splitlines()
        header = json.loads(header)
        header["config"] |= what.pop("config", {})
        path.write_text("\n".join([json.dumps(header | what), *records]))

    changed("MADA", 1337, run="another", config={"learning_rate": 1.0})
    changed("MADA", 1338, run="another", config={"init_from": "resume"})
    found = store.gather("gpt2-medium", "smoke")
    assert [[run.seed for run in found[label][1]] for label in ("Adam", "MADA")] == [[1338], [1338]]
    assert "mada-seed1337.jsonl is left out: it was run with another learning_rate" in capsys.readouterr().out
    cells = store.cells("gpt2-medium", "smoke", 2, False)
    stale = [key for key, cell in cells.items() if not store.fresh(store.file_of("gpt2-medium", "smoke", *key), cell)]
    assert stale == [("Adam", 1, 1337), ("MADA", 1, 1337), ("MADA", 1, 1338)]


def test_mada_fs_starts_where_mada_ended(results, monkeypatch):
    whole = experiments.LINEUPS["gpt2"]
    few = {label: whole.rows[label] for label in ("Adam", "MADA", "MADA-FS", "MADA-")}
    monkeypatch.setitem(experiments.LINEUPS, "gpt2", whole._replace(rows=few))
    reproduce("fig7", "smoke", seeds=1, workers=0, with_grid=False)
    ends = {label: outcomes.read(store.file_of("gpt2", "smoke", label, 1, 1337)) for label in few}
    header, _records = ends["MADA-FS"]
    last = ends["MADA"][1][-1]["coefficients"]
    assert {name: header["config"][name] for name in last} == last and header["config"]["learn"] == []
    assert (results / "fig7" / "smoke" / "figure.png").exists()
    assert summary(results, "fig7")["authors"]["beta1"]["end"] == 0.99


def test_a_difference_is_one_when_it_is_more_than_two_paired_standard_errors():
    def words(ours, base, better="lower"):
        a, b = (outcomes.spread(dict(enumerate(values))) for values in (ours, base))
        return outcomes.gap(a, b).words(better, 2)

    assert words([1.1, 1.3], [1.0, 1.2]) == "+0.10 ± 0.00, worse (2/2)"  # seeds differ by more than the rows
    assert words([1.1, 1.3], [1.0, 1.2], "higher") == "+0.10 ± 0.00, better (2/2)"
    assert words([0.9, 1.4], [1.0, 1.2]) == "+0.05 ± 0.15, no clear difference (1/2)"
    assert words([1.0], [1.5]) == "-0.50 (one seed)"
    found = outcomes.spread({1: 1.0, 2: float("nan"), 3: None})
    assert found | {"values": [*found["values"]]} == {"n": 2, "diverged": 1, "mean": 1.0, "sd": None, "values": [1, 2]}
    ours, theirs = {1: 1.0, 3: 3.0, 4: float("nan")}, {1: 1.5, 2: 0.0, 3: 1.0, 4: 1.0}
    gap = outcomes.gap(outcomes.spread(ours), outcomes.spread(theirs))
    assert (gap.mean, gap.n, gap.same, gap.lost) == (0.75, 2, 1, 1)
    assert (
        words([1.00, 1.01, float("nan")], [1.10, 1.11, 1.10])
        == "-0.10 ± 0.00, no clear difference (2/2, and 1 diverged)"
    )
    assert words([1.00, 1.01, 1.0], [1.10, 1.11, float("nan")]) == "-0.10 ± 0.00, better (2/2)"
    assert outcomes.gap(found, found) is None is outcomes.gap(found, outcomes.spread({9: 1.0}))


@pytest.mark.parametrize("name, made", [("fig1", "figure.png"), ("prop1", "table.md"), ("fig9", "figure.png")])
def test_what_needs_no_model(results, name, made, monkeypatch):
    reproduce(name, "smoke", workers=0)
    assert (results / name / "smoke" / made).stat().st_size > (10_000 if made.endswith("png") else 300)
    before = summary(results, name)
    monkeypatch.setattr(figures.theory, "theorem", None)
    monkeypatch.setattr(figures.theory, "proposition", None)
    reproduce(name, "smoke", draw=True)
    assert summary(results, name) == before


def test_the_grid_of_figure_8_over_seeds(results, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "ROOT", tmp_path)  # where out/sweeps is
    file = str(tiny.ROOT / "config" / "sweep_shakespeare_betas_smoke.py")
    monkeypatch.setitem(
        experiments.NAMES, "fig8", experiments.NAMES["fig8"]._replace(rest=experiments.GRID | {"smoke": (file, 2)})
    )
    executed, execute = [], figures.execute
    monkeypatch.setattr(
        figures, "execute", lambda cells, *how, **more: executed.append(cells) or execute(cells, *how, **more)
    )
    reproduce("fig8", "smoke", seeds=1, workers=0)
    reproduce("fig8", "smoke", workers=0)  # the second seed alone
    reproduce("fig8", "smoke", workers=0)  # nothing
    assert [{cell.cfg["seed"] for cell in cells} for cells in executed] == [{1337}, {1338}]
    assert laboratory.estimate("fig8", "smoke") == (24, 0, 0)
    assert laboratory.estimate("fig8", "smoke", 3)[:2] == (36, 12)
    found = summary(results, "fig8")
    assert found["conditions"].count("12 runs on ") == 2
    train, val = (found["results"][key] for key in ("final_train_loss", "final_val_loss"))
    assert [it["cells"] for it in train["ours"]] == [4, 4] and train["ours"] != val["ours"]
    assert train["authors"]["below adam"] == pytest.approx(269 / 275)  # their table
    assert val["authors"]["below adam"] == pytest.approx(7 / 275)
    (tmp_path / "out").rename(tmp_path / "gone")
    reproduce("fig8", "smoke", draw=True)
    assert summary(results, "fig8") == found


def diverge(run):
    run.header["diverged"] = True
    del run.records[len(run.records) // 2 :]


@pytest.mark.parametrize("name, lineup", [("fig3", "gpt2"), ("fig7", "gpt2"), ("table5", "cnn")])
def test_runs_that_diverged_are_not_drawn(name, lineup, tmp_path):
    """Their records end early; and of a row all seeds may have diverged."""
    kind, _, rest, _ = experiments.NAMES[name]
    how = {"name": name, "scale": "cpu", "folder": tmp_path, "rest": rest, "draw": True}
    runs = store.gather(lineup, "cpu")
    for factors in runs.values():
        diverge(factors[1][0])
    first = laboratory.KINDS[kind](runs={lineup: runs}, **how)
    assert list(tmp_path.glob("*.png"))
    for run in (run for some in runs["MADA"].values() for run in some):
        diverge(run)
    found = laboratory.KINDS[kind](runs={lineup: runs}, **how)
    if name == "fig7":
        assert [len(seeds) for seeds in first["results"].values()] == [2, 2]
        assert [*found["results"]] == ["MADA (rule=authors)"]


@pytest.mark.parametrize("name, lineup", [("table2 table3 table6 fig3", "gpt2"), ("table5", "cnn")])
def test_what_has_partly_run_is_said_as_far_as_it_goes(name, lineup, tmp_path, monkeypatch):
    """A row has not been run, or has diverged in every seed, or at the learning rate from the paper."""
    for picture in ("curves", "gaps"):
        monkeypatch.setattr(drawing, picture, lambda *arguments, **more: None)
    names = {each: experiments.NAMES[each] for each in name.split()}

    def said(runs):
        found = {}
        for each, (kind, _, rest, _) in names.items():
            how = {"name": each, "scale": "cpu", "folder": tmp_path, "rest": rest, "draw": True}
            found[each] = {"cpu": json.loads(json.dumps(laboratory.KINDS[kind](runs={lineup: runs}, **how)))}
        return [each for each, which, shown in pages.entries(found) if which in (lineup, None) and shown]

    for label, left in (("Adam", []), ("MADA", ["table6"] if "table6" in names else []), ("HyperAdam", [*names])):
        runs = store.gather(lineup, "cpu")
        lost = runs.pop(label)
        assert said(runs) == left
        for run in lost[1]:
            diverge(run)
        assert said(runs | {label: lost}) == left
        for run in (run for some in lost.values() for run in some):
            diverge(run)
        assert said(runs | {label: lost}) == left


def test_a_profile_that_is_not_whole_is_no_finding():
    found = json.loads((tiny.ROOT / "results" / "profile" / "cpu" / "summary.json").read_text())
    assert pages.READERS["profile"](found, "profile").checks
    for row in found["results"]:
        few = {label: it for label, it in found["results"].items() if label != row}
        assert pages.READERS["profile"](found | {"results": few}, "profile") is None


def test_a_diverged_cell_of_figure_8_is_infinite():
    found = json.loads((tiny.ROOT / "results" / "fig8" / "cpu" / "summary.json").read_text())
    found["results"]["final_train_loss"]["ours"][0]["worst of adam"] = None
    assert "adam up to inf," in pages.READERS["grid"](found).sentences[-1]


def test_diverged_cells_are_the_worst():
    nan, rows = float("nan"), []
    for beta2, losses in ((0.5, (nan, 2.0, 1.0)), (0.6, (nan, 2.0, nan)), (0.7, (1.0, 2.0, 3.0))):
        for name, loss in zip(("adam", "hyperadam", "mada"), losses, strict=True):
            rows.append({"optimizer": name, "beta1_0": 0.1, "beta2_0": beta2, "final_train_loss": loss})
    found = grid.shares(rows, "final_train_loss")
    assert found["below adam"] == found["below hyperadam"] == pytest.approx(1 / 3)
    assert found["median of mada"] == 3.0 and found["median of adam"] == float("inf")
    panels = grid.panels([rows, rows], "final_train_loss")
    assert panels["mada"][0.1, 0.5] == 1.0 and panels["adam"][0.1, 0.5] != panels["adam"][0.1, 0.5]


# what a scale does to the paper's proportions, and what it costs


def test_the_proportions_are_those_of_the_audit():
    """Counted by hand from the configs, once."""
    _, language = proportions.sentence("table2", "cpu", "gpt2")
    for words in (
        "warm-up as % of the schedule 5 (2)",
        "hyper_start as % of the schedule 1.7 (0.05)",
        "hyper_start as % of the warm-up 33 (2.5)",
        "last over peak rate as % for Lion 2.5 (10)",
        "context 128 (1,024)",
        "weight decay x sum of rates 0.018 (3.1)",
    ):
        assert f"{words};" in language.replace(").", ");") or f"{words}." in language, words
    _, shakespeare = proportions.sentence("fig8", "cpu")
    for words in (
        "peak rate 0.004 (0.001)",
        "last over peak rate as % 7.5 (10)",
        "warm-up as % of the schedule 14 (2)",
        "context 64 (256)",
        "dropout 0 (0.2)",
        "cells 25 (275)",
    ):
        assert words in shakespeare
    whole, note = proportions.sentence("table2", "paper", "gpt2")
    assert whole and "Clipping" in note and "ours" in note


def test_the_miniature_keeps_the_proportions_of_schedule_and_decay():
    _, mini = proportions.sentence("table2", "mini", "gpt2", experiments.MAIN)
    reduced = mini.removeprefix("Reduced (mini), ours and in brackets the paper's: ").split(". ")[0].split("; ")
    assert [it.rpartition(" (")[0] for it in reduced[:7]] == [
        *("data openwebtext_bytes", "layers 2", "width 64", "context 64", "steps 10,000", "sequences per step 12"),
        "tokens seen per weight of the blocks 78",
    ]
    assert reduced[7:] == [
        "hyper-learning-rate of the betas 0.001 (0.0005)",
        "hyper-learning-rate of the others 0.2 (0.1)",
        *("peak rate 0.0048 (0.0006)", "peak rate for Lion 0.0012 (0.00015)"),
    ]
    _, pilot = proportions.sentence("table2", "pilot", "gpt2", experiments.MAIN)
    assert "steps 1,000 (100,000)" in pilot and "% of the schedule that is run 10 (100)" in pilot


def test_the_miniature_brackets_the_rates_of_adam_and_mada():
    mini = {label for label, *_ in store.cells("gpt2", "mini", 1, False)}
    assert {label for label, *_ in store.cells("gpt2", "pilot", 1, False)} == {*experiments.MAIN} < mini
    bracketed = {label for label, factor, _ in store.cells("gpt2", "mini", 1, True) if factor != 1}
    assert bracketed == {"Adam", "MADA", "MADA (default)", "MADA (rule=authors)"}


def test_decay_times_rates_is_the_sum_over_steps():
    for files in (
        ["config/train_gpt2_adam.py", "config/scale_gpt2_cpu.py", "config/scale_gpt2_mini.py"],
        ["config/train_gpt2_adam.py", "config/scale_gpt2_cpu.py"],
        ["config/train_shakespeare_char.py"],
    ):
        cfg = runs.run("train.py", *[str(tiny.ROOT / file) for file in files]).cfg
        rates = [train.learning_rate_at(it, SimpleNamespace(**cfg)) for it in range(1, cfg["max_iters"] + 1)]
        assert proportions.decayed(cfg) == pytest.approx(cfg["weight_decay"] * sum(rates), rel=2e-3)


def test_what_it_takes_is_said_before(results, script):
    cells = len(store.cells("gpt2-medium", "smoke", 1, False))
    dry = ("reproduce", "table7", "--scale", "smoke", "--seeds", 1, "--no_grid", "--dry_run")
    assert script(*dry) == (0, f"table7   smoke  {cells} runs, {cells} missing: not timed yet\n", "")
    assert not results.exists()
    reproduce("table7", "smoke", seeds=1, workers=0, with_grid=False)
    assert laboratory.estimate("table7", "smoke", 1, False) == (cells, 0, 0)
    times = {"Adam": 60.0, "MADA": 120.0, "MADA (default)": 90.0, "MADA (rule=authors)": 180.0}
    for label, seconds in times.items():
        path = store.file_of("gpt2-medium", "smoke", label, 1, 1337)
        header, *records = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(header) | {"seconds": seconds}), *records]))
    assert laboratory.estimate("table7", "smoke", 3, False) == (3 * cells, 2 * cells, 2 * sum(times.values()))
    status, listed, _ = script("reproduce", "list")
    assert status == 0 and all(f"\n{name} " in f"\n{listed}" for name in experiments.NAMES)


def test_failed_runs_are_said_once_and_tried_again(results, script, monkeypatch):
    there = data.tokens.FOLDER
    monkeypatch.setattr(data.tokens, "FOLDER", results)  # no data there
    command = ("reproduce", "table7", "--scale", "smoke", "--seeds", 1, "--workers", 0, "--no_grid")
    status, _, error = script(*command)
    said = "data/shakespeare_char is not prepared; run: python data/shakespeare_char/prepare.py"
    assert (status, error) == (2, f"reproduce.py: {said}\n")
    (results / "shakespeare_char").mkdir()
    (results / "shakespeare_char" / "meta.json").write_text("{}")
    monkeypatch.setattr(laboratory, "tried", set())
    status, _, error = script(*command)
    assert status == 2
    assert error.splitlines()[-1].startswith("reproduce.py: 4 failed: dataset='shakespeare_char': ")
    assert not list(results.rglob("*.md"))
    with pytest.raises(UserError, match="^table4 has no scale cpu; it has smoke, paper"):
        reproduce("table4", "cpu")
    monkeypatch.setattr(data.tokens, "FOLDER", there)
    monkeypatch.setattr(laboratory, "tried", set())  # another process
    assert script(*command)[0] == 0
    assert summary(results, "table7")["lineups"]["gpt2-medium"]["rows"]["Adam"]["ours"]["loss"]["n"] == 1
    assert summary(results, "table7")["command"].endswith("table7 --scale smoke --seeds 1 --no_grid")


def test_all_goes_on_after_what_cannot_be_done(results, script, monkeypatch):
    done = []

    def reproduce_one(name, *rest):
        done.append(name)
        if name == "fig8":
            raise UserError("no data")
        return ["out of memory"] if name == "table7" else []

    monkeypatch.setattr(laboratory, "reproduce", reproduce_one)
    status, _, error = script("reproduce", "all", "--scale", "cpu")
    assert status == 2 and "2 failed: out of memory; no data; run it again to retry" in error
    assert done == [name for name in (*experiments.NAMES, *questions.NAMES) if "cpu" in laboratory.scales(name)]
    assert "table4" not in done


def test_profile_measures_processes_of_its_own(results, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the files that it names are those of the repository
    dataset = f"--dataset={data.tokens.FOLDER / 'shakespeare_char'}"  # the other processes know the usual folder only
    settings = (dataset, "--batch_size=8", "--micro_batch_size=2", "--max_iters=5")
    monkeypatch.setitem(experiments.PROFILE, "smoke", (("config/scale_gpt2_smoke.py",), {"": settings}, 2))
    few = {label: experiments.NAMES["profile"].rest[label] for label in ("Adam", "MADA")}
    monkeypatch.setitem(experiments.NAMES, "profile", experiments.NAMES["profile"]._replace(rest=few))
    reproduce("profile", "smoke")
    found = summary(results, "profile")
    assert {it["ranks"] for it in found["results"].values()} == {2}
    assert "| Adam | 15.5 | 0.65 |" in (results / "profile" / "smoke" / "table.md").read_text()
    assert all(it["peak_gb"] > 0.05 and it["seconds"] > 0 for it in found["results"].values())
    with pytest.raises(UserError, match="n_embd=16 must be a multiple"):
        script = tables.load(str(tiny.ROOT / "scripts" / "measure.py"))
        script.measure(["config/train_gpt2_adam.py", "config/scale_gpt2_smoke.py", dataset, "--n_head=3"], 1, tiny.ROOT)
    monkeypatch.setattr(tables, "load", lambda script: 1 / 0)
    reproduce("profile", "smoke")  # nothing is measured twice
    assert summary(results, "profile")["results"] == found["results"]
    assert laboratory.estimate("profile", "smoke") == (2, 0, None)
    path = results / "profile" / "smoke" / "measured.json"
    path.write_text(json.dumps({"Adam": json.loads(path.read_text())["Adam"]}))  # stopped after the first
    assert laboratory.estimate("profile", "smoke") == (2, 1, None)
    monkeypatch.setitem(experiments.PROFILE, "smoke", (("config/scale_gpt2_smoke.py",), {"": settings}, 1))
    assert laboratory.estimate("profile", "smoke") == (2, 2, None)  # by one process instead of two
