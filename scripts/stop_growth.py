"""Would the loss or the gradient's norm say in time that a rate should stop growing? And what does clipping do to it?

    python scripts/stop_growth.py              # does what results/stop_growth/ lacks; an hour on one core in all
    python scripts/stop_growth.py --draw       # the page again, from what is there

Runs of two growing rows of reproduce/growth.py, with a hook on step() that ends the growth for good once the mean of
ten losses, or of ten norms, has risen above its lowest so far; and without clipping. All are compared with the same
optimizer, not growing (results/growth). A policy gradient has no loss that tells how well it does.
"""

import argparse
import io
import itertools
import json
import math
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
from devices import hardware
from reproduce import ROOT, contest_runs, growth
from reproduce.contest import Cell
from reproduce.growth_report import PARTS, costs, said
from reproduce.markdown import markdown
from reproduce.outcomes import read_to_draw
from reproduce.pool import load
from settings import STOPPED, Diverged, UserError, one_line_errors

ROWS = {  # {a growing row: the same, not growing}
    "MADA, growing rate": "MADA",
    "MADA from Muon's corner, growing rate (hyper_lr 1)": "MADA from Muon's corner",
}
HELPED = "stops once the norm rises by half"  # the only form that has helped anywhere, and so the one for costly tasks
FORMS = {  # {form: (what is watched, by which factor its mean may rise)}; None: not clipped, and nothing is watched
    "never stopped": ("norm", math.inf),
    HELPED: ("norm", 1.5),
    "without clipping": None,
    "without clipping, not growing": None,
    "stops once the norm rises threefold": ("norm", 3.0),
    "stops once the loss rises by 5 %": ("loss", 1.05),
    "stops once the loss rises by 20 %": ("loss", 1.2),
}
WINDOW = 10  # steps of a mean
KEY = ("task", "row", "form", "rate", "seed")  # of a run


class Stop:
    """A hook on step() that ends the growth of MADA's rate. at: the step after which it did, or None."""

    def __init__(self, watched: str, factor: float):
        self.watched, self.factor = watched, factor
        self.last, self.lowest, self.steps, self.at, self.loss = deque(maxlen=WINDOW), math.inf, 0, None, math.nan

    def __call__(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        self.steps += 1
        self.last.append(self.loss if self.watched == "loss" else float(optimizer.grad_norm))
        if self.at is not None or len(self.last) < WINDOW:
            return
        mean = sum(self.last) / WINDOW
        self.lowest = min(self.lowest, mean)
        if mean > self.factor * self.lowest:
            self.at = self.steps
            for group in optimizer.param_groups:
                group["hyper_lr"][list(optimizer.domain).index("lr")] = 0.0


@contextmanager
def watching(stop: Stop | None):
    """Hand the loss of every backward() to a Stop, and call it after every step of any optimizer."""
    if stop is None:
        yield
        return
    backward = torch.Tensor.backward

    def seen(loss, *args, **kwargs):
        stop.loss = loss.item()
        return backward(loss, *args, **kwargs)

    hook = register_optimizer_step_post_hook(stop)
    torch.Tensor.backward = seen
    try:
        yield
    finally:
        torch.Tensor.backward = backward
        hook.remove()


def forms_of(task: str) -> list[str]:
    """Those that are run on a task."""
    if growth.TASKS[task].costly:
        return [HELPED]
    return [form for form, it in FORMS.items() if not (it and it[0] == "loss" and task in ("cartpole", "acrobot"))]


def key_of(found: dict) -> tuple:
    return tuple(found[name] for name in KEY)


def wanted(tasks: Iterable[str], seeds: int | None = None) -> dict:
    """{(task, row, form, rate, seed): run}. What does not grow is run at AdamW's best rate and twice that only."""
    found = {}
    for task in tasks:
        every = growth.runs(task, "cpu", seeds)
        good = growth.TASKS[task].rates[growth.FRACTIONS.index(1) :]
        for form, (row, cell, seed) in itertools.product(forms_of(task), every):
            grows = "not growing" not in form
            if row in ROWS and (grows or cell.rate in good):
                run = every[row if grows else ROWS[row], cell, seed]
                found[task, row, form, cell.rate, seed] = run if FORMS[form] else run.but(grad_clip=0.0)
    return found


def measure(key: tuple, run) -> dict:
    """One run, in a folder that is lost afterwards."""
    task, _, form, *_ = key
    stop = Stop(*FORMS[form]) if FORMS[form] else None
    with tempfile.TemporaryDirectory() as folder, watching(stop), redirect_stdout(io.StringIO()):
        cfg = run.but(out_dir=str(Path(folder, "run"))).cfg
        try:
            if load(run.script).train(cfg) is None:  # by a SIGTERM
                sys.exit(STOPPED)
            records = metrics.read(cfg["out_dir"])[1]
            value, factor = contest_runs.result(records, growth.TASKS[task]), records[-1]["coefficients"].get("lr", 1.0)
        except Diverged:
            value, factor = math.nan, math.nan
    found = dict(zip(KEY, key, strict=True))
    kept = {
        "value": contest_runs.five_digits(value),
        "factor": contest_runs.five_digits(factor),
        "stopped_at": stop and stop.at,
    }
    return found | {"run": run.id} | kept


def table(task: str, row: str, found: list[dict], values: dict) -> str:
    """What a row costs in each form, as growth_report.costs has it; values: those of results/growth."""
    lines = []
    for form in FORMS:
        runs, cells = [it for it in found if it["form"] == form], {}
        if not runs:
            continue
        for it in runs:
            value = contest_runs.no_worse_than_chance(growth.TASKS[task], it["value"])
            cells.setdefault(Cell(it["rate"], growth.START), {})[it["seed"]] = value
        gaps = costs(task, values | {row: cells}, row, ROWS[row], True)
        stopped = sum(it["stopped_at"] is not None for it in runs)
        lines.append([form, *(said(gaps.get(part)) for part in growth.FRACTIONS), f"{stopped} of {len(runs)}"])
    return markdown(["", *(f"rate {part} x AdamW's best" for part in PARTS), "runs that were stopped"], lines)


def page(header: dict, found: list[dict]) -> str:
    """README.md."""
    lines = ["# When should a growing rate stop?", ""]
    lines.append("Each row minus the same optimizer, not growing, at AdamW's best rate or at twice that, as on")
    lines.append("[the growing rate's page](../growth/cpu/README.md). Negative is better.")
    for task in growth.TASKS:
        values = contest_runs.values(contest_runs.gather(growth, "cpu", task).found, growth.TASKS[task])
        for row in ROWS:
            if runs := [it for it in found if (it["task"], it["row"]) == (task, row)]:
                lines += ["", f"**{growth.TASKS[task].title}**, {row}:", "", table(task, row, runs, values)]
    devices, commits = (
        ", ".join(dict.fromkeys(str(it[key])[:size] for it in found)) for key, size in (("device", 99), ("git", 7))
    )
    how = f"`{header['command']}`, {devices}, torch {header['torch']}, commit {commits}."
    return "\n".join([*lines, "", how, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=growth.TASKS, help="only this one; by default all whose runs take seconds")
    parser.add_argument("--seeds", type=int, help="of each cell; by default the task's own number")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "stop_growth")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    args = parser.parse_args()
    if args.seeds is not None and args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be at least 1")
    path, cheap = args.out / "runs.jsonl", [name for name, it in growth.TASKS.items() if not it.costly]
    if not args.draw:
        args.out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps({"command": "python scripts/stop_growth.py", "torch": torch.__version__}) + "\n")
        known = {(*key_of(it), it["run"]) for it in read_to_draw(path)[1]}
        for key, run in wanted((args.task,) if args.task else cheap, args.seeds).items():
            if (*key, run.id) not in known:
                found = measure(key, run) | {"git": metrics.git_revision(), "device": hardware("cpu")}
                with open(path, "a") as file:
                    file.write(json.dumps(found) + "\n")
                print(json.dumps(found), flush=True)
    (args.out / "README.md").write_text(page(*read_to_draw(path)))


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
