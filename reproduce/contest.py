"""The contest: somebody replaces AdamW by MADA and changes nothing else; what happens?

Rows of optimizers under equal conditions, on tasks of different kinds, over learning rates and initial betas. MADA's
settings are optim/'s defaults everywhere; they were chosen on `shakespeare` alone. A cell is a task, a learning rate,
initial betas and what else is varied; MADA and AdamW are compared by cell, in pairs of runs with the same seed.
"""

import itertools
import math
from statistics import mean, stdev
from typing import NamedTuple

from reproduce.runs import Run, run

RAW = {"hyper_scale": "raw", "debias": "powers"}
ROWS = {  # what somebody writes in place of AdamW; the first is what all are compared with
    "AdamW": {"optimizer": "adam"},
    "MADA": {"optimizer": "mada"},
    "HyperAdam": {"optimizer": "hyperadam"},
    "MADA (the paper's settings)": {"optimizer": "mada", **RAW},
    "MADA (rule=authors)": {"optimizer": "mada", "rule": "authors"},
}
ONCE = {  # at AdamW's start only, where these optimizers have the same betas; else their own
    "AVGrad": {"optimizer": "avgrad", "beta1": 0.9, "beta2": 0.95},
    "Yogi": {"optimizer": "yogi", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "Adan": {"optimizer": "adan"},
    "Lion": {"optimizer": "lion", "beta1": 0.95, "beta2": 0.98},
}
START = (0.9, 0.95)
BETAS = (START, (0.9, 0.999), (0.7, 0.8), (0.99, 0.9), (0.5, 0.75), (0.99, 0.6))
CONDITIONS = [{"schedule": schedule, "weight_decay": decay} for schedule in ("cosine", "linear", "constant")
              for decay in (0.0, 0.1)]  # fmt: skip


class Task(NamedTuple):
    title: str
    arguments: tuple[str, ...]  # script, config files and --settings
    rates: tuple[float, ...]  # around AdamW's best
    key: str = "value"  # of metrics.jsonl; its last one is the result
    unit: str = "loss"
    higher: bool = False
    seeds: int = 5
    betas: tuple[tuple[float, float], ...] = BETAS
    rows: tuple[str, ...] = (*ROWS, *ONCE)
    conditions: bool = False  # schedules and decays, for AdamW and MADA, at AdamW's start
    least: float | None = None  # min_lr over learning_rate, where the script takes the two
    dear: bool = False  # hours: AdamW, HyperAdam and MADA from two starts


def dear(title, arguments, rates, **more):
    few = {"betas": (START, (0.99, 0.9)), "rows": ("AdamW", "MADA", "HyperAdam"), "seeds": 3, "dear": True}
    return Task(title, arguments, rates, **few | more)


def small(name, title, rates, **more):
    return Task(title, ("scripts/train_small.py", f"--task={name}"), rates, **more)


QUICK = ("train.py", "config/train_shakespeare_char_cpu.py")
LM = {"key": "val_loss", "unit": "validation loss (nats)"}
TASKS = {
    "digits": small("digits", "MLP on scikit-learn's digits", (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
                    unit="validation loss (nats)", conditions=True),
    "shakespeare": Task("GPT (0.1M) on Shakespeare", (*QUICK, "config/contest_shakespeare.py"),
                        (1e-3, 4e-3, 1.6e-2, 3.2e-2), seeds=3, least=0.1, **LM),
    "factorization": small("factorization", "matrix completion", (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1, 2.56e-1),
                           unit="held-out squared error", conditions=True),
    "cartpole": small("cartpole", "REINFORCE on CartPole", (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1, 2.56e-1),
                      unit="minus the mean return"),
    "acrobot": small("acrobot", "REINFORCE on Acrobot", (8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1),
                     unit="minus the mean return", rows=("AdamW", "MADA", "HyperAdam"), seeds=3),
    "openwebtext": dear("GPT (0.35M) on OpenWebText's bytes", (*QUICK, "config/contest_openwebtext.py"),
                        (6e-4, 2.4e-3, 9.6e-3), least=0.1, **LM),
    "shakespeare-large": dear("GPT (0.8M) on Shakespeare", (*QUICK, "config/contest_shakespeare_large.py"),
                              (1e-3, 4e-3, 1.6e-2), least=0.1, **LM),
    "cnn": dear("CNN on CIFAR-10", ("scripts/train_cifar10.py", "--model=cnn"), (2.5e-4, 1e-3, 4e-3),
                key="accuracy", unit="test accuracy (%)", higher=True),
}  # fmt: skip
SCALES = {"smoke": ("digits", "factorization"), "cpu": tuple(TASKS), "gpu": tuple(TASKS)}
FIRST_SEED = 1337


class Cell(NamedTuple):
    """Where optimizers are compared."""

    rate: float
    betas: tuple[float, float]
    conditions: tuple = ()


def settings(row: str, task: Task, cell: Cell) -> dict:
    """What a row's run in a cell is given beside the task's own settings."""
    given = (ROWS | ONCE)[row]
    if row in ROWS:
        given = given | {"beta1": cell.betas[0], "beta2": cell.betas[1]}
    if row in ("MADA (the paper's settings)", "MADA (rule=authors)"):  # whose beta2 ends at 0.99, or where it starts
        given = given | {"domain": {"beta2": (0.501, max(0.99, cell.betas[1]))}}
    given = given | {"learning_rate": cell.rate} | dict(cell.conditions)
    return given | ({"min_lr": task.least * cell.rate} if task.least else {})


def cells(task: Task) -> dict[str, list[Cell]]:
    """{row: its cells}."""
    found = {row: [] for row in task.rows}
    for row, betas, rate in itertools.product(task.rows, task.betas, task.rates):
        if row in ROWS or betas == START:
            found[row].append(Cell(rate, betas))
    for row, conditions, rate in itertools.product(
        ("AdamW", "MADA"), CONDITIONS if task.conditions else (), task.rates
    ):
        cell = Cell(rate, START, tuple(sorted(conditions.items())))
        found[row].append(cell)
    return found


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task, in the order of what could refute the claim: AdamW and MADA first."""
    task = TASKS[name]
    smoke = ("--steps=20",) if scale == "smoke" else ()
    count = 2 if scale == "smoke" else seeds or task.seeds
    rows = cells(task)
    if scale == "smoke":
        rows = {row: [cell for cell in some if cell.betas == START][:2] for row, some in rows.items()}
    order = [(row, cell, FIRST_SEED + i) for group in (task.rows[:2], task.rows[2:]) for i in range(count)
             for row in group for cell in rows[row]]  # fmt: skip
    return {(row, cell, seed): run(*task.arguments, *smoke, **settings(row, task, cell), seed=seed)
            for row, cell, seed in order}  # fmt: skip


class Gap(NamedTuple):
    """A row minus AdamW in a cell, over seeds that both have; positive is worse, whatever the unit."""

    n: int
    base: float  # AdamW's mean
    mean: float
    error: float  # standard error of the mean, 0 for one seed

    def no_worse(self, errors=2.0) -> bool:
        """At most `errors` standard errors, or half a per cent of AdamW's value."""
        return self.mean <= max(errors * self.error, 0.005 * abs(self.base))

    def excess(self) -> float:
        """By how much of AdamW's value it is worse beyond what `no_worse` allows; 0 where it is not."""
        return max(0.0, self.mean - max(2 * self.error, 0.005 * abs(self.base))) / abs(self.base)


def gap(task: Task, ours: dict[int, float], theirs: dict[int, float]) -> Gap | None:
    """ours, theirs: {seed: value}. A value that is not finite stands for the worst: it diverged."""
    seeds = sorted({*ours} & {*theirs})
    if not seeds:
        return None
    sign = -1 if task.higher else 1
    both = [(ours[seed], theirs[seed]) for seed in seeds]
    pairs = [0.0 if not math.isfinite(a) and not math.isfinite(b) else
             sign * math.inf if not math.isfinite(a) else -sign * math.inf if not math.isfinite(b) else a - b
             for a, b in both]  # fmt: skip
    differences = [sign * difference for difference in pairs]
    finite = all(map(math.isfinite, differences))
    base = [b for _, b in both if math.isfinite(b)]
    error = stdev(differences) / math.sqrt(len(seeds)) if finite and len(seeds) > 1 else 0.0
    middle = mean(differences) if finite else max(differences, key=abs)
    return Gap(len(seeds), mean(base) if base else math.inf, middle, error)
