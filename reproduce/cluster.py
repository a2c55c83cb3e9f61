"""execute() as jobs in a cluster's queue, through submitit: cluster="slurm", or "local" for processes on this machine.

All jobs work on the same runs, in a folder that all nodes see; each run's lock says who is doing it. A job that is
about to run out of time or be preempted is told (SIGUSR2), writes its checkpoints, and is requeued.
"""

import os
import signal
from pathlib import Path

import submitit

from reproduce import ROOT
from reproduce.pool import Stopped, execute
from reproduce.runs import Run
from settings import UserError, one_line


class Job:
    """One job: execute(*arguments, **options), as a callable that submitit can send and requeue."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options

    def __call__(self) -> dict:
        requeue = signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
        try:
            return execute(*self.arguments, **self.options)
        except Stopped:
            requeue(signal.SIGUSR2, None)  # submitit's handler, which calls checkpoint() and ends this process
            raise

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


def submit(
    runs: list[Run], folder: str, jobs: int, cluster: str = "slurm", queue: dict | None = None, **options
) -> list:
    """Submit this many jobs that do the runs in `folder`. Returns submitit's jobs. Raises UserError.

    queue: submitit's parameters by name, e.g. {"timeout_min": 720, "gpus_per_node": 1, "slurm_partition": "gpu"};
    options: those of execute().
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    folder = os.path.abspath(folder)
    try:
        executor = submitit.AutoExecutor(Path(folder, "jobs"), cluster, slurm_max_num_timeout=1000)
        executor.update_parameters(**{"name": Path(folder).name, "slurm_signal_delay_s": 180} | (queue or {}))
        with executor.batch():
            return [executor.submit(Job(runs, folder, **options)) for _ in range(jobs)]
    except (RuntimeError, ValueError, AssertionError, NameError, TypeError) as error:
        raise UserError(f"cluster={cluster!r}, {queue}: {one_line(error)}") from None
