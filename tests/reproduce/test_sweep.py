"""scripts/sweep.py: whatever is killed or fails, the same command again ends as an undisturbed sweep would.

python -m pytest -q tests/reproduce/test_sweep.py
"""

import csv
import json
import math
import resource
import runpy
import sys
from pathlib import Path

import pytest
import tiny
from test_pool import states

import metrics
from reproduce import grid as cells_of
from reproduce import runs
from settings import UserError

CELLS = """
base = None
optimizer = ["adam", "mada"]
beta1 = [0.5, 0.9]
beta2 = [0.6, 0.99]
"""
TIMES = ("step_ms", "tokens_per_s")


def sweep_file(folder, text=CELLS, **settings):
    """A sweep of tiny runs; its data set is named by its whole path, which worker processes see too."""
    settings = tiny.SETTINGS | {"dataset": str(folder / "data" / "tiny"), "eval_train": True} | settings
    if not (folder / "data").exists():
        tiny.write_data(folder / "data")
    path = folder / "sweep_tiny.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()) + text)
    return str(path)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A sweep file, and the folder of its undisturbed sweep."""
    folder = tmp_path_factory.mktemp("grid")
    path = sweep_file(folder)
    assert main(path, "--out", str(folder / "out"), "--workers", "0") == 0
    return path, folder / "out"


def main(*arguments):
    """sweep.py in this process; its exit status."""
    before, sys.argv = sys.argv, ["sweep.py", *arguments]
    try:
        runpy.run_path(str(tiny.ROOT / "scripts" / "sweep.py"), run_name="__main__")
    except SystemExit as error:
        return error.code
    finally:
        sys.argv = before
    return 0


def records(out):
    """What each run logged, without times."""
    found = {path.parent.name: metrics.read(path.parent)[1] for path in Path(out).glob("*/metrics.jsonl")}
    return {
        name: [{key: it for key, it in record.items() if key not in TIMES} for record in logged]
        for name, logged in found.items()
    }


def assert_same(out, undisturbed):
    assert records(out) == records(undisturbed)
    assert Path(out, "summary.csv").read_bytes() == Path(undisturbed, "summary.csv").read_bytes()
    assert Path(out, "contours.png").read_bytes() == Path(undisturbed, "contours.png").read_bytes()


# what it leaves


def test_the_summary_has_the_columns_of_the_authors(grid, capsys):
    path, out = grid
    with open(out / "summary.csv") as file:
        table = list(csv.DictReader(file))
    head = "optimizer beta1_0 beta2_0 beta3_0 rho_0 c_0 gamma_0 final_train_loss final_val_loss"
    assert list(table[0]) == head.split()
    assert len(table) == 8 and (out / "contours.png").stat().st_size > 10_000
    assert [(row["optimizer"], row["beta1_0"], row["beta2_0"]) for row in table[:3]] == [
        ("adam", "0.500000", "0.600000"),
        ("adam", "0.500000", "0.990000"),
        ("adam", "0.900000", "0.600000"),
    ]
    every, _ = cells_of.cells(path, [])
    last = metrics.read(out / every[0].id)[1][-1]
    assert table[0]["final_train_loss"] == f"{last['eval_train_loss']:.6f}" != f"{last['train_loss']:.6f}"
    assert table[0]["final_val_loss"] == f"{last['val_loss']:.6f}"
    assert not list(out.glob("*/*.pt"))  # hundreds of cells' checkpoints would fill a disk


def test_summary_and_picture_are_made_from_metrics_alone(grid, tmp_path):
    path, out = grid
    for file in out.glob("*/metrics.jsonl"):
        (tmp_path / file.parent.name).mkdir()
        (tmp_path / file.parent.name / "metrics.jsonl").write_bytes(file.read_bytes())
    every, _ = cells_of.cells(path, [])
    assert len(every) == 8 and list(cells_of.rows(every, tmp_path)) == list(cells_of.rows(every, out))


def test_ours_minus_theirs(grid, tmp_path, capsys):
    path, out = grid
    theirs = cells_of.read(out / "summary.csv")[:3]
    theirs[0]["final_train_loss"] -= 0.25
    cells_of.write(theirs, tmp_path / "theirs.csv")
    compared = "--compare", str(tmp_path / "theirs.csv"), "--under", "9"
    assert main(path, "--out", str(out), "--workers", "0", *compared) == 0
    printed = capsys.readouterr().out
    assert printed.count("= +0.2500   val") == 1
    assert printed.count("= +0.0000   val") + printed.count("= -0.0000   val") == 2
    assert "over 3 cells: train mean +0.0833, largest +0.2500" in printed
    assert "best cell: optimizer" in printed and "100.0% of 4 cells under 9.0000; 0 diverged" in printed


def test_a_dry_run_lists_the_cells_and_does_none(tmp_path, capsys):
    path = sweep_file(tmp_path, CELLS + "seconds = 30\n")
    assert main(path, "--dry_run", "--out", str(tmp_path / "out"), "--workers", "2") == 0
    printed = capsys.readouterr().out
    assert printed.count("pending") == 8 and "adam  beta1=0.5  beta2=0.99" in printed
    assert "8 cells, 8 to do: about 2 min with 2 workers at 30.0 s a cell (from the sweep file)" in printed
    assert not (tmp_path / "out").exists()


def test_the_sweeps_of_the_repository():
    paper, _ = cells_of.cells(str(tiny.ROOT / "config" / "sweep_shakespeare_betas.py"), [])
    assert len(paper) == 825 and cells_of.varied(paper) == ["beta1", "beta2"]
    cpu, seconds = cells_of.cells(str(tiny.ROOT / "config" / "sweep_shakespeare_betas_cpu.py"), [])
    assert len(cpu) == 75 and len(cpu) / 2 * seconds < 30 * 60


def test_thousands_of_cells_are_listed_at_once(tmp_path, monkeypatch):
    """The base config is parsed once, not per cell."""
    parsed, parse = [], runs.parse
    monkeypatch.setattr(runs, "parse", lambda *arguments: parsed.append(1) or parse(*arguments))
    path = sweep_file(tmp_path, "seed = list(range(500))\nbeta1 = [0.1 * i for i in range(10)]\n")
    assert len(cells_of.cells(path, [])[0]) == 5000 and len(parsed) == 2


# cells


def test_cells_from_lists_or_a_function_and_settings_of_all(tmp_path):
    every, _ = cells_of.cells(sweep_file(tmp_path), ["--max_iters=4", "--seed=7"])
    assert len(every) == 8 and all((run.cfg["max_iters"], run.cfg["seed"]) == (4, 7) for run in every)
    function = "def cells():\n    for seed in (1, 2, 2):\n        yield dict(seed=seed, optimizer='adam')\n"
    every, _ = cells_of.cells(sweep_file(tmp_path, function), [])
    assert [run.cfg["seed"] for run in every] == [1, 2]  # a cell given twice is one
    assert cells_of.varied(every) == ["seed"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("beta_1 = [0.5]", "there is no setting 'beta_1'; the nearest is 'beta1'"),
        ("beta1 = ['a']", "beta1='a' must be float"),
        ("beta1 = [", "SyntaxError"),
        ("beta1 = []", "there is no cell"),
        ("def cells(): return [3]", r"cells\(\): TypeError"),
        ("def cells(): raise OSError('x')", r"cells\(\): OSError: x"),
        ("base = 'config/nothing.py'", "no such config file"),
    ],
)
def test_a_bad_sweep_file_ends_with_one_line(tmp_path, capsys, text, message):
    path = sweep_file(tmp_path, text)
    with pytest.raises(UserError, match=f"^{path}: .*{message}"):
        cells_of.cells(path, [])
    assert main(path, "--out", str(tmp_path / "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.py"], "nowhere.py: there is no such sweep file"),
        (["--worker=3"], "no setting 'worker'"),
        (["--compare", "nowhere.csv"], "nowhere.csv: not a table"),
        (["--shard", "4/3"], "invalid shard value: '4/3'"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
    ],
)
def test_a_bad_command_line_ends_with_status_2(grid, capsys, arguments, message):
    assert main(*[grid[0]] * arguments[0].startswith("--"), *arguments, "--dry_run") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ['base = ["one.py"]\n', 'seconds = "20"\n'])
def test_a_base_or_a_time_of_another_kind_is_said(tmp_path, text):
    with pytest.raises(UserError, match="must be a config file, and seconds=.* a number"):
        cells_of.cells(sweep_file(tmp_path, CELLS.replace("base = None\n", "") + text), [])


def test_what_else_was_varied_is_written_whole(tmp_path):
    row = dict.fromkeys(cells_of.COLUMNS, 0.123456789) | {"optimizer": "adam", "eps": 1e-8}
    cells_of.write([row], tmp_path / "summary.csv")
    assert (tmp_path / "summary.csv").read_text().splitlines()[1].endswith(",0.123457,1e-08")


# results that are no numbers, and failures


def test_a_cell_whose_losses_stayed_finite_may_have_diverged(grid):
    """Its gradients did not: the trainer gives up, and the last loss that it logged is a number."""
    path, out = grid
    cells, _ = cells_of.cells(str(path), [])
    folder = Path(out, cells[0].id)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"diverged": True}))
    try:
        rows = list(cells_of.rows(cells, str(out)))
    finally:
        (folder / "state.json").write_text(json.dumps(state))
    assert [math.isnan(row["final_val_loss"]) for row in rows] == [True] + [False] * (len(cells) - 1)


def test_a_diverged_cell_is_a_result_and_a_failed_one_is_run_again_on_demand_only(tmp_path, capsys):
    path = sweep_file(
        tmp_path,
        "def cells():\n    for rate, beta1 in ((1e-2, 0.5), (1e30, 0.5), (1e-2, 2.0)):\n"
        "        yield dict(learning_rate=rate, beta1=beta1)\n",
    )
    arguments = path, "--out", str(tmp_path / "out"), "--workers", "0"
    assert main(*arguments) == 2
    error = capsys.readouterr().err
    assert "beta1=2.0" in error and "1 of 3 runs failed; --retry_failed runs them again" in error
    assert sorted(it["state"] for it in states(tmp_path / "out").values()) == ["done", "done", "failed"]
    table = cells_of.read(tmp_path / "out" / "summary.csv")
    assert [math.isfinite(row["final_train_loss"]) for row in table] == [True, False]
    before = states(tmp_path / "out")
    assert main(*arguments) == 2 and states(tmp_path / "out") == before
    assert main(*arguments, "--retry_failed") == 2
    again = [key for key, it in states(tmp_path / "out").items() if it != before[key]]
    assert [before[key]["state"] for key in again] == ["failed"]


def test_shards_are_a_partition(grid, tmp_path):
    path, _out = grid
    for i, count in ((1, 3), (2, 6), (3, 8)):
        assert main(path, "--out", str(tmp_path), "--workers", "0", "--shard", f"{i}/3", "--max_iters=1") == 0
        assert len(states(tmp_path)) == count
    assert {it["state"] for it in states(tmp_path).values()} == {"done"}


# whatever dies: tests/reproduce/test_pool.py has more of it


def test_a_full_disk_ends_with_one_line_and_loses_nothing(grid, tmp_path, capsys):
    """A file-size limit stands for the full disk: between a checkpoint and a line of metrics."""
    path, undisturbed = grid
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (2_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            assert main(path, "--out", str(tmp_path), "--workers", "0") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert f"sweep.py: {tmp_path} cannot be written: " in capsys.readouterr().err.splitlines()[-1]
    assert main(path, "--out", str(tmp_path), "--workers", "0") == 0
    assert_same(tmp_path, undisturbed)
