"""reproduce/cluster.py: runs as jobs, one of which is told that its time is up, on the local executor of submitit.

python -m pytest -q tests/reproduce/test_cluster.py        # about ten seconds
"""

import os
import signal
from pathlib import Path

import pytest
from test_pool import execute, running, some, start, states, steps, toy, undisturbed, until, values  # noqa: F401

import metrics
from reproduce import cluster
from settings import UserError


@pytest.mark.parametrize("workers", [0, 1])
def test_jobs_share_the_work_and_one_that_is_out_of_time_goes_on(toy, undisturbed, tmp_path, workers):  # noqa: F811
    four = [toy(seed=seed, pause=0.03) for seed in range(4)]
    out = tmp_path / "out"
    jobs = cluster.submit(four, str(out), 2, "local", {"timeout_min": 5}, workers=workers)
    until(lambda: len(running(out)) == 2 and max(steps(out, run) for run in four) > 10)
    (pid,) = [it["pid"] for key, it in states(out).items() if key == max(four, key=lambda run: steps(out, run)).id]
    job = int(Path(f"/proc/{pid}/stat").read_text().split()[3]) if workers else pid
    os.kill(job, signal.SIGUSR2)
    for each in jobs:
        assert {it["state"] for it in each.result().values()} == {"done"}
    assert values(out, four) == undisturbed
    resumed = [metrics.read(out / run.id)[0].get("resumed_at") for run in four]
    assert sum(it is not None for it in resumed) == 1, resumed  # it saved, and another job or its own resumed it
    assert "Requeued job" in "".join(path.read_text() for path in (out / "jobs").glob("*.out"))


@pytest.mark.parametrize(
    "name, queue, message",
    [
        ("slurm", {}, "slurm"),
        ("moon", {}, "moon"),
        ("local", {"timeout": 3}, "Parameter 'timeout'"),
        ("local", {"gpus_per_node": "many"}, "gpus_per_node"),
    ],
)
def test_a_queue_that_cannot_be_had_is_one_line(some, tmp_path, name, queue, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        cluster.submit(some, str(tmp_path / "out"), 2, name, queue)
