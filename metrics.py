"""The record of a run: out_dir/metrics.jsonl, a progress bar on a terminal or plain lines elsewhere, wandb on request."""

import json
import os
import subprocess
import sys

from tqdm import tqdm

FILE = "metrics.jsonl"


def git_revision():
    """Commit of this checkout, with "+" after it where files differ from it; None outside a git checkout."""
    git = ["git", "-C", os.path.dirname(os.path.abspath(__file__))]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed.strip())


def read(out_dir):
    """A run's metrics.jsonl -> header, records: what the run was, and one dict per logged step."""
    with open(os.path.join(out_dir, FILE)) as file:
        header, *records = (
            json.loads(line) for line in file if line.endswith("\n")
        )  # a killed run may leave half a line
    return header, records


class Metrics:
    """Writes the record of one run. A resumed run keeps the lines up to its checkpoint and goes on after them.

    header: dict, the first line; start: iter of the checkpoint that is resumed (0: a new run); total: steps in all.
    wandb: arguments of wandb.init, or None.
    """

    def __init__(self, out_dir, header, start, total, wandb=None):
        os.makedirs(out_dir, exist_ok=True)
        path, records = os.path.join(out_dir, FILE), []
        if start and os.path.exists(path):  # not where only the checkpoint was brought here
            before, records = read(out_dir)
            header = header | {"resumed_at": [*before.get("resumed_at", []), start]}
            records = [record for record in records if record["iter"] <= start]
        with open(path + ".part", "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in [header, *records])
        os.replace(path + ".part", path)
        self.file = open(path, "a", buffering=1)  # by lines: a killed run has what it logged
        self.bar = tqdm(initial=start, total=total, dynamic_ncols=True, unit="step") if sys.stderr.isatty() else None
        self.wandb = None
        if wandb is not None:
            from wandb import init

            self.wandb = init(config=header, **wandb)

    def say(self, line):
        (self.bar.write if self.bar is not None else print)(line)
        sys.stdout.flush()

    def write(self, record):
        """One logged step: a dict with "iter"; nested dicts and numbers."""
        self.file.write(json.dumps(record) + "\n")
        words = [f"{name} {record[name]:.4f}" for name in ("train_loss", "val_loss") if name in record]
        words += [f"{name} {value:.3f}" for name, value in record.get("coefficients", {}).items()]
        if self.bar is not None:
            self.bar.set_postfix_str("  ".join(words))
            self.bar.update(record["iter"] - self.bar.n)
        if self.bar is None or "val_loss" in record:
            speed = [f"{record['step_ms']:.0f} ms"] if "step_ms" in record else []
            self.say(f"step {record['iter']:6d}  " + "  ".join(words + speed))
        if self.wandb is not None:
            self.wandb.log(record, step=record["iter"])

    def close(self):
        self.file.close()
        if self.bar is not None:
            self.bar.close()
        if self.wandb is not None:
            self.wandb.finish()
