"""scripts/gpu_report.py: predictions from bytes and operations, and a report that survives a failing part.

python -m pytest tests/reproduce/test_gpu_report.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from reproduce import gpu
from reproduce.gpu import Prediction
from scripts import gpu_report
from settings import UserError

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_bytes_per_parameter_are_counted_by_hand():
    """The norm reads 4; look_back reads grad, g and the buffers and writes the buffers; move reads grad, x and the
    buffers and writes x and g. The buffers and g are kept."""
    for row, buffers in {"mada": 6, "mada, without lion": 5, "hyperadam": 2}.items():
        moved = 4 * (1 + (2 + buffers) + buffers + (2 + buffers) + 2)
        assert gpu.costs(row) == (moved, 4 * (buffers + 1)), row


def test_an_h100_is_predicted_from_its_data_sheet():
    predicted = gpu.predictions("NVIDIA H100 80GB HBM3")
    mada = predicted["124M, mada: ms"]
    assert mada.value == pytest.approx(1e3 * 100 * 124_373_760 / (0.92 * 3.35e12))
    assert mada.goal == pytest.approx(1.3e3 * 100 * 124_373_760 / 3.35e12)
    assert gpu.predictions("NVIDIA H200")["124M, mada: ms"].value == pytest.approx(mada.value * 3.35 / 4.8)
    assert gpu.work() == pytest.approx(61440 * (6 * (124_373_760 - 1024 * 768) + 12 * 12 * 768 * 1024))


def test_every_measurement_of_a_part_has_a_prediction():
    """The quick parts, on the CPU; the names of the slow ones are all made from the same rows."""
    names = [name for part in (gpu_report.correct, gpu_report.waits) for name, _ in part("cpu")]
    assert set(names) <= set(gpu.predictions("H100"))


def test_the_fast_path_on_this_cpu_keeps_the_goals_of_correctness():
    predicted, found = gpu.predictions("H100"), dict(gpu_report.correct("cpu"))
    assert len(found) == len(gpu.ERRORS)
    assert not {name: error for name, error in found.items() if not error <= predicted[name].goal}


@pytest.mark.parametrize(
    "value, goal, least, expected",
    [
        (1.0, 1.0, False, "kept"),
        (1.1, 1.0, False, "MISSED"),
        (0.5, 0.5, True, "kept"),
        (0.4, 0.5, True, "MISSED"),
        (7.0, None, False, ""),
        (None, 1.0, False, "not measured"),
    ],
)
def test_a_goal_is_kept_or_missed(value, goal, least, expected):
    assert gpu.verdict(value, Prediction(1.0, goal, "", least)) == expected


@NO_GPU
def test_a_part_that_fails_is_named_and_costs_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "hardware", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # here; the parts' own processes find none
    parts = {"correct": gpu_report.PARTS["correct"], "host": (gpu_report.host, (), 0.01)}
    monkeypatch.setattr(gpu_report, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        gpu_report.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert ended.value.code == 1
    assert report["errors"]["host"] == "not done in 0.01 s"
    assert report["errors"]["correct"].startswith("status 1: ")
    assert "- host did not end: not done in 0.01 s" in (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out.startswith("correct: status 1")


def test_a_rehearsal_writes_a_report_and_judges_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--rehearse", "--only", "correct", "--out", str(tmp_path)])
    gpu_report.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["errors"] == {} and 0 < report["rows"]["float32: error of 10 steps"]["measured"] < 1e-5
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# A rehearsal") and "kept" not in page and "MISSED" not in page


@pytest.mark.slow
def test_whole_iterations_run_on_random_tokens():
    found = dict(gpu_report.iterations("cpu"))
    assert set(found) <= set(gpu.predictions("H100")) and all(value > 0 for value in found.values())
    assert len(found) == 4 * 2 + 3 * 2


@NO_GPU
def test_without_a_gpu_it_prints_the_predictions_and_says_so(monkeypatch, capsys):
    """What it prints is results/gpu/README.md."""
    monkeypatch.setattr(sys, "argv", ["gpu_report.py"])
    with pytest.raises(UserError, match="there is no GPU here"):
        gpu_report.main()
    assert capsys.readouterr().out == (ROOT / "results" / "gpu" / "README.md").read_text()
