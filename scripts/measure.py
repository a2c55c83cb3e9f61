"""Peak memory and time per iteration of a training run, in a process of its own: appendix D of the paper.

    python scripts/measure.py config/train_gpt2_mada.py config/scale_profile_gpu.py     # a line
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import config
import metrics


def child(arguments, out_dir, pipe):
    """Train, quietly, and send the peak memory in GB."""
    sys.stdout = open(os.devnull, "w")
    import torch

    import train
    settings = config.parse(config.declared(train.__file__), [*arguments, f"--out_dir={out_dir}", "--overwrite=True"])
    try:
        train.train(*settings)
    except config.UserError as error:
        return pipe.send({"error": str(error)})
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send({"peak_gb": peak / 1e9})


def measure(arguments):
    """arguments as of train.py, with a log_interval of 1 -> {"peak_gb", "seconds", ...}. Raises UserError."""
    arguments = [name if name.startswith("--") else str(ROOT / name) for name in arguments]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as out_dir:
        process = context.Process(target=child, args=(arguments, out_dir, theirs))
        process.start()
        theirs.close()
        try:
            found = ours.recv()
        except EOFError:
            found = {"error": f"the process ended with status {process.exitcode}: out of memory?"}
        process.join()
        if "error" in found:
            raise config.UserError(found["error"])
        header, records = metrics.read(out_dir)
    times = [record["step_ms"] / 1e3 for record in records if "step_ms" in record]
    return found | {"seconds": statistics.median(times[2:] or times), "steps": len(times)} | {
        key: header[key] for key in ("device", "cpu_threads", "dtype", "compile", "torch", "git")}


if __name__ == "__main__":
    with config.one_line_errors(__file__):
        print(json.dumps(measure(sys.argv[1:])))
