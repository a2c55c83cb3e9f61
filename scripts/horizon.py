"""What one step sees: the same run continued in several ways, and which of them is best after 1, 4, 16, ... steps.

    python scripts/horizon.py                  # does what results/horizon/ lacks; all of it takes an hour on one core
    python scripts/horizon.py --draw           # the picture and the page again, from results/horizon/horizon.jsonl

A hyper-gradient is the slope of the loss one step ahead. The contest's smallest GPT is trained with AdamW's update. At
some steps it is copied, and each copy continues with another share mu of Muon's direction, another beta1, or another
learning rate, on the same batches. The loss is that of fixed windows of the validation split, so that copies can be
compared in pairs.
"""

import argparse
import copy
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
import train
from data.tokens import splits
from devices import hardware
from reproduce import ROOT, drawing
from reproduce.contest import START, TASKS
from reproduce.markdown import markdown
from reproduce.outcomes import read_to_draw
from reproduce.runs import first_seeds, run
from settings import UserError, one_line_errors

RATE = 1.6e-2  # AdamW's best on this task (results/contest)
WAYS = {"mu": (0.0, 0.25, 0.5, 0.75, 1.0), "beta1": (0.3, 0.6, 0.9, 0.95, 0.98), "rate": (0.25, 0.5, 1.0, 2.0, 4.0)}
AS_IT_IS = {"mu": 0.0, "beta1": START[0], "rate": 1.0}
POINTS = (100, 300, 500)  # steps at which the run is copied; the rate has then fallen to 99, 71 and 29 % of its peak
HORIZONS = (1, 4, 16, 64, 256, None)  # steps; None: to the end of the run
WINDOWS = 720


def config(seed: int) -> SimpleNamespace:
    """The settings of the run that is copied: MADA at Adam's corner, with what Muon needs kept, and nothing learned."""
    script, *files = TASKS["shakespeare"].arguments
    beta1, beta2 = START
    fixed = {"optimizer": "mada", "learn": ("mu",), "hyper_lr": {"mu": 0.0}, "beta1": beta1, "beta2": beta2}
    rates = {"learning_rate": RATE, "min_lr": TASKS["shakespeare"].least * RATE}
    return SimpleNamespace(**run(script, *files, **fixed, **rates, seed=seed).cfg)


class Course:
    """A model, its optimizer and the step that they are at."""

    def __init__(self, cfg: SimpleNamespace):
        self.cfg, (self.data, self.held_out) = cfg, splits(cfg.dataset, cfg.block_size)
        self.model = train.make_model(cfg, None, self.data.meta["vocab_size"])
        self.optimizer, self.it = train.make_optimizer(cfg, self.model), 0

    def advance(self, steps: int, factor: float = 1.0) -> None:
        """Take `steps` steps, at the schedule's rate times a factor."""
        for _ in range(steps):
            self.it += 1
            for group in self.optimizer.param_groups:
                group["lr"] = factor * train.learning_rate_at(self.it, self.cfg)
            starts = self.data.random_starts(self.cfg.seed, self.it, self.cfg.batch_size)
            self.model(*self.data.windows(starts)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def move(self, coefficient: str, value: float) -> None:
        """Set a coefficient from now on."""
        for group in self.optimizer.param_groups:
            group["coefficients"][list(self.optimizer.domain).index(coefficient)] = value

    @torch.no_grad()
    def loss(self) -> float:
        starts = self.held_out.spread_starts(WINDOWS)
        parts = [self.model(*self.held_out.windows(part)) * len(part) for part in starts.reshape(-1, 60)]
        return float(sum(parts)) / len(starts)


def measure(seed: int, points: tuple[int, ...], horizons: tuple[int | None, ...], known: set) -> Iterator[list[dict]]:
    """Yields [{"seed", "way", "value", "from", "steps", "val_loss"}] for each way and point that is not in `known`."""
    missing = {point: [way for way in WAYS if (seed, way, point) not in known] for point in points}
    course = Course(config(seed)) if any(missing.values()) else None
    for point, way in ((it, way) for it in points for way in missing[it]):
        course.advance(point - course.it)
        found, left = [], course.cfg.max_iters - point
        for value in WAYS[way]:
            branch = copy.deepcopy(course)
            if way != "rate":
                branch.move(way, value)
            for horizon in horizons:
                steps = left if horizon is None else horizon
                if steps <= left:
                    branch.advance(point + steps - branch.it, value if way == "rate" else 1.0)
                    one = {"seed": seed, "way": way, "value": value, "from": point, "steps": steps}
                    found.append(one | {"val_loss": round(branch.loss(), 6)})
        yield found


def gains(found: list[dict], way: str, point: int) -> dict[int, dict[float, list[float]]]:
    """{steps: {value: by how much its loss is below that of the unchanged run, for each seed}}."""
    chosen = [it for it in found if (it["way"], it["from"]) == (way, point)]
    losses = {(it["steps"], it["value"], it["seed"]): it["val_loss"] for it in chosen}
    rows = {}
    for (steps, value, seed), loss in losses.items():
        rows.setdefault(steps, {}).setdefault(value, []).append(losses[steps, AS_IT_IS[way], seed] - loss)
    return rows


def page(found: list[dict], header: dict) -> str:
    """results/horizon/README.md."""
    lines = ["# What one step sees", "", "![horizon](horizon.png)", ""]
    seeds = sorted({it["seed"] for it in found})
    what = "By how much the validation loss is lower after so many steps"
    lines += [f"{what}, mean of {len(seeds)} seeds; the best in bold.", ""]
    for way, values in WAYS.items():
        for point in sorted({it["from"] for it in found if it["way"] == way}):
            rows = []
            for steps, row in gains(found, way, point).items():
                means = {value: mean(row[value]) for value in values}
                best = max(means, key=means.get)
                shown = {value: f"{means[value]:+.4f}" for value in values}
                rows.append([steps, *(f"**{it}**" if value == best else it for value, it in shown.items())])
            table = markdown(["steps", *map("{:g}".format, values)], rows)
            lines += [f"From step {point}, by the {drawing.WAYS_IN_WORDS[way]}:", "", table, ""]
    commits = dict.fromkeys(str(it.get("git", header["git"]))[:7] for it in found)
    how = f"`{header['command']}`, {header['device']}, torch {header['torch']}, commit {', '.join(commits)}"
    return "\n".join([*lines, f"AdamW's update at the rate {RATE:g}. {how}.", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "horizon")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    args = parser.parse_args()
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be at least 1")
    path = args.out / "horizon.jsonl"
    if not args.draw:
        now = {"git": metrics.git_revision(), "device": hardware("cpu")}
        os.makedirs(args.out, exist_ok=True)
        if not path.exists():
            command = " ".join(["python", "scripts/horizon.py", *sys.argv[1:]])
            path.write_text(json.dumps({"command": command, **now, "torch": torch.__version__}) + "\n")
        known = {(it["seed"], it["way"], it["from"]) for it in read_to_draw(path)[1]}
        for seed in first_seeds(args.seeds):
            for found in measure(seed, POINTS, HORIZONS, known):
                with open(path, "a") as file:
                    file.write("".join(json.dumps(it | now) + "\n" for it in found))
                print("seed {seed}: {way} from step {from}".format(**found[0]), flush=True)
    header, found = read_to_draw(path)
    if not found:
        raise UserError(f"--draw: there is no run in {path} yet; run without it first")
    every = sorted({(it["way"], it["from"]) for it in found}, key=lambda at: (list(WAYS).index(at[0]), at[1]))
    drawing.horizons({at: gains(found, *at) for at in every}, args.out / "horizon.png")
    (args.out / "README.md").write_text(page(found, header))


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
