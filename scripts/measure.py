"""Peak memory and time per iteration of a training run, in processes of its own: appendix D of the paper.

    python scripts/measure.py config/train_gpt2_mada.py config/scale_profile_gpu.py             # one process
    python scripts/measure.py --ranks=8 config/train_gpt2_mada.py config/scale_profile_gpu.py   # eight, under torchrun

Prints one line of JSON. The settings are train.py's; they should have log_interval = 1, for a time of every step.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import metrics
from settings import UserError, declared, first_rank, one_line_errors, parse


def child(out_dir: str, arguments: Sequence[str]) -> None:
    """Train quietly; the first rank writes its peak memory in GB."""
    import torch

    import train

    settings = parse(declared(train.__file__), [*arguments, f"--out_dir={out_dir}", "--overwrite=True"])
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        train.train(*settings)
    peak = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())), default=0)  # --device names one
    peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if first_rank():
        Path(out_dir, "peak.json").write_text(json.dumps(peak / 1e9))


def measure(arguments: Sequence[str], ranks: int = 1, folder: str | os.PathLike | None = None) -> dict:
    """arguments as of train.py -> {"peak_gb" of the first rank, "seconds" per step, "steps" timed, what it ran on}.

    ranks: processes that share the work, each on its own GPU if there are GPUs; folder: where they run, and relative
    paths begin. Raises UserError.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] * (ranks > 1)
    with tempfile.TemporaryDirectory() as out_dir:
        command = [sys.executable, *launcher, __file__, f"--child={out_dir}", *arguments]
        how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
        done = subprocess.run(command, check=False, **how)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith(f"{os.path.basename(__file__)}: ")]
            raise UserError(
                lines[0].partition(": ")[2]
                if lines
                else f"the process ended with status {done.returncode}: out of memory? {done.stderr[-300:]}"
            )
        peak = json.loads(Path(out_dir, "peak.json").read_text())
        header, records = metrics.read(out_dir)
    times = [record["step_ms"] / 1e3 for record in records if "step_ms" in record]
    return {"peak_gb": peak, "seconds": statistics.median(times[2:] or times), "steps": len(times[2:] or times)} | {
        key: header[key] for key in ("device", "ranks", "cpu_threads", "dtype", "compile", "torch", "git")
    }


def main(first="", *arguments):
    if first in ("", "-h", "--help"):
        return print(__doc__)
    name, _, value = first.partition("=")
    if name == "--child":
        return child(value, arguments)
    if name != "--ranks":
        return print(json.dumps(measure(sys.argv[1:])))
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"{first}: write --ranks=N, with N the number of processes")
    print(json.dumps(measure(arguments, int(value))))


if __name__ == "__main__":
    with one_line_errors(__file__):
        main(*sys.argv[1:])
