"""The contest: somebody replaces AdamW with MADA and changes nothing else; what happens?

Rows of optimizers under equal conditions, on tasks of different kinds, over learning rates and initial betas. MADA's
settings are optim/'s defaults everywhere; they were chosen on CHOSEN_ON alone. A cell is a task, a learning rate,
initial betas, and whatever else is varied; MADA and AdamW are compared by cell, in pairs of runs with the same seed.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from reproduce.runs import Run, first_seeds, run

CHOSEN_ON = "shakespeare"  # the task of TASKS on which MADA's defaults were chosen
ROWS = {  # what somebody writes in place of AdamW; all are compared with the first
    "AdamW": {"optimizer": "adam"},
    "MADA": {"optimizer": "mada"},
    "HyperAdam": {"optimizer": "hyperadam"},
    "MADA (the paper's settings)": {"optimizer": "mada", "hyper_scale": "raw", "debias": "powers"},
    "MADA (rule=authors)": {"optimizer": "mada", "rule": "authors"},
    "MADA (beta3 and gamma fixed)": {"optimizer": "mada", "learn": ("beta1", "beta2", "rho", "c")},
}
ONCE = {  # at AdamW's start only, where these optimizers have the same betas; else their own
    "AVGrad": {"optimizer": "avgrad", "beta1": 0.9, "beta2": 0.95},
    "Yogi": {"optimizer": "yogi", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "Adan": {"optimizer": "adan"},
    "Lion": {"optimizer": "lion", "beta1": 0.95, "beta2": 0.98},
}
START = (0.9, 0.95)
BETAS = (START, (0.9, 0.999), (0.7, 0.8), (0.99, 0.9), (0.5, 0.75), (0.99, 0.6))
UNCLIPPED = ({"grad_clip": 0.0},)  # not where hardly any gradient is longer than 1: there it is the same run again
SCHEDULES = tuple(
    {"schedule": schedule, "weight_decay": decay}
    for schedule in ("cosine", "linear", "constant")
    for decay in (0.0, 0.1)
)[1:]  # the first is what scripts/train_small.py does by default


class Task(NamedTuple):
    title: str
    arguments: tuple[str, ...]  # script, config files and --settings
    rates: tuple[float, ...]  # around AdamW's best
    chance: float  # the value of a run that has learned nothing; also of one that ends beyond it, or diverges
    key: str = "value"  # in metrics.jsonl; its last value is the result,
    best: str | None = None  # or its value where this key is highest
    unit: str = "loss"
    higher: bool = False
    seeds: int = 5
    betas: tuple[tuple[float, float], ...] = BETAS
    rows: tuple[str, ...] = (*ROWS, *ONCE)
    conditions: tuple[dict, ...] = ()  # what else is varied, for AdamW and MADA, at AdamW's start
    least: float | None = None  # min_lr over learning_rate, where the script takes both
    costly: bool = False  # takes hours: AdamW, HyperAdam and MADA from two starts only


def costly(title, arguments, rates, chance, **more):
    few = {
        "betas": (START, (0.99, 0.9)),
        "rows": ("AdamW", "MADA", "HyperAdam"),
        "seeds": 3,
        "costly": True,
    }
    return Task(title, arguments, rates, chance, **few | more)


def small(name, title, rates, chance, **more):
    return Task(title, ("scripts/train_small.py", f"--task={name}"), rates, chance, **more)


LARGE = ("train.py", "config/contest_shakespeare_large.py")
LM = {"key": "val_loss", "unit": "validation loss (nats)"}
TASKS = {
    "digits": small("digits", "MLP on scikit-learn's digits", (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2), math.log(10),
                    unit="validation loss (nats)", conditions=UNCLIPPED + SCHEDULES),
    "shakespeare": Task("GPT (0.1M) on Shakespeare", (*LARGE, "config/contest_shakespeare.py"),
                        (1e-3, 4e-3, 1.6e-2, 3.2e-2), math.log(65), seeds=3, least=0.1,
                        conditions=UNCLIPPED, **LM),
    "factorization": small("factorization", "matrix completion", (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1, 2.56e-1), 5.0,
                           unit="held-out squared error", conditions=SCHEDULES),
    "cartpole": small("cartpole", "REINFORCE on CartPole", (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1, 2.56e-1), -22.0,
                      unit="minus the mean return of all episodes"),
    "acrobot": small("acrobot", "REINFORCE on Acrobot", (8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1), 500.0,
                     unit="minus the mean return of all episodes"),
    "openwebtext": costly("GPT (0.35M) on OpenWebText's bytes", (*LARGE, "config/contest_openwebtext.py"),
                          (6e-4, 2.4e-3, 9.6e-3, 3.84e-2), math.log(256), least=0.1, **LM),
    "shakespeare-large": costly("GPT (0.8M) on Shakespeare", LARGE,
                                (1e-3, 4e-3, 1.6e-2), math.log(65), least=0.1, **LM),
    "cnn": costly("CNN on CIFAR-10", ("scripts/train_cifar10.py", "--model=cnn", "--held_out=5000"),
                  (2.5e-4, 1e-3, 4e-3), 10.0, key="accuracy", best="held_out_accuracy",
                  unit="test accuracy (%), at the held-out best epoch", higher=True),
}  # fmt: skip
SCALES = {"smoke": ("digits", "factorization"), "cpu": tuple(TASKS), "gpu": tuple(TASKS)}


class Cell(NamedTuple):
    """Where optimizers are compared."""

    rate: float
    betas: tuple[float, float]
    conditions: tuple = ()  # sorted (setting, value) pairs

    def __str__(self) -> str:
        return ", ".join([f"rate {self.rate:g}", f"betas {self.betas}", *(f"{k} {v}" for k, v in self.conditions)])


def settings(row: str, task: Task, cell: Cell) -> dict:
    """What a row's run in a cell is given in addition to the task's own settings."""
    given = (ROWS | ONCE)[row]
    if row in ROWS:
        given = given | {"beta1": cell.betas[0], "beta2": cell.betas[1]}
    if row in ("MADA (the paper's settings)", "MADA (rule=authors)"):  # whose beta2 ends at 0.99, or where it starts
        given = given | {"domain": {"beta2": (0.501, max(0.99, cell.betas[1]))}}
    return given | at(task, cell)


def at(task: Task, cell: Cell) -> dict:
    """A cell's settings, except for the betas."""
    least = {"min_lr": task.least * cell.rate} if task.least else {}
    return {"learning_rate": cell.rate} | dict(cell.conditions) | least


def of_mada(rows: dict[str, dict]) -> Callable[[str, Task, Cell], dict]:
    """`settings` for rows that are mostly MADA's: what each is given on top of the task and the cell."""
    return lambda row, task, cell: (
        {"optimizer": "mada", "beta1": cell.betas[0], "beta2": cell.betas[1]} | at(task, cell) | rows[row]
    )


def cells(task: Task) -> dict[str, list[Cell]]:
    """{row: its cells}."""
    found = {row: [] for row in task.rows}
    for row, betas, rate in itertools.product(task.rows, task.betas, task.rates):
        if row in ROWS or betas == START:
            found[row].append(Cell(rate, betas))
    for row, conditions, rate in itertools.product(("AdamW", "MADA"), task.conditions, task.rates):
        found[row].append(Cell(rate, START, tuple(sorted(conditions.items()))))
    return found


def small_part(rows: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """The cells of the smoke scale: two rates from a good and a bad start."""

    def chosen(some):
        rates = sorted({it.rate for it in some})[:2]
        starts = (START, (0.99, 0.9))
        return [it for it in some if not it.conditions and it.betas in starts and it.rate in rates]

    return {row: chosen(some) for row, some in rows.items()}


def made(task: Task, scale: str, seeds: int | None, rows: dict[str, list[Cell]], settings) -> dict:
    """{(row, cell, seed): run}, seed by seed; the first two rows, which could refute the claim, come first."""
    more = {"smoke": ("--steps=20",), "gpu": ("--device=auto",) * task.costly}.get(scale, ())
    rows = small_part(rows) if scale == "smoke" else rows
    labels, found = list(rows), {}
    base = run(*task.arguments, *more)
    each = first_seeds(seeds or (2 if scale == "smoke" else task.seeds))
    for group, seed in itertools.product((labels[:2], labels[2:]), each):
        for row in group:
            for cell in rows[row]:
                found[row, cell, seed] = base.but(**settings(row, task, cell), seed=seed)
    return found


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task; at gpu scale the costly ones are run in full too."""
    it = TASKS[name]
    if scale == "gpu" and it.costly:
        it = it._replace(betas=BETAS, rows=(*ROWS, *ONCE), seeds=5)
    return made(it, scale, seeds, cells(it), settings)
