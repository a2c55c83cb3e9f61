"""Muon compared with MADA: what is orthogonalizing hidden matrices worth, and does MADA find the way there?

Rows under the contest's conditions, from its first betas, at rates over a factor of 64. The first open question of the
paper is what MADA does with more optimizers than its five. Where a run takes seconds, the rows of the question, Muon
and its corner and AdamW, have more seeds: the gap between the first two is smaller than the spread over a few.
"""

from reproduce import contest
from reproduce.contest import START, Cell, made
from reproduce.runs import FIRST_SEED, Run

LEARN = {"learn": ("beta1", "beta2", "mu")}
CONVOLUTIONS = "MADA from Muon's corner, convolutions too"
ROWS = {
    "Muon": {"optimizer": "muon"},
    "MADA from Muon's corner": LEARN | {"mu": 1.0},
    CONVOLUTIONS: LEARN | {"mu": 1.0, "muon_convolutions": True},
    "AdamW": {"optimizer": "adam"},
    "MADA from mu = 0.5": LEARN | {"mu": 0.5},
    "MADA from Adam's corner": LEARN | {"mu": 0.0},
    "MADA from Adam's corner, mu ten times as fast": LEARN | {"mu": 0.0, "hyper_lr": {"mu": 0.1}},
}
RATES = {
    "shakespeare": (1e-3, 4e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    "digits": (4e-3, 8e-3, 1.6e-2, 6.4e-2, 2.56e-1),
    "shakespeare-large": (1e-3, 4e-3, 1e-2, 3.2e-2, 6.4e-2),
    "openwebtext": (6e-4, 2.4e-3, 9.6e-3, 3.84e-2),
    "cnn": (2.5e-4, 1e-3, 4e-3, 1.6e-2),
}
QUESTION, FEW = ("Muon", "MADA from Muon's corner", "AdamW"), 3  # seeds of the other rows
SEEDS = {"shakespeare": 15, "digits": 15}
TASKS = {
    name: contest.TASKS[name]._replace(
        rates=rates,
        betas=(START,),
        seeds=SEEDS.get(name, FEW),
        rows=tuple(row for row in ROWS if row != CONVOLUTIONS or name == "cnn"),
    )
    for name, rates in RATES.items()
}
SCALES = {"smoke": ("digits",), "cpu": tuple(TASKS), "gpu": tuple(TASKS)}


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task; seeds: how many, of each row."""
    it = TASKS[name]
    cells = [Cell(rate, START) for rate in it.rates]
    every = made(it, scale, seeds, dict.fromkeys(it.rows, cells), contest.of_mada(ROWS))
    few = FIRST_SEED + (seeds or FEW)
    return {(row, cell, seed): run for (row, cell, seed), run in every.items() if row in QUESTION or seed < few}
