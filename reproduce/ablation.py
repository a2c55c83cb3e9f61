"""The ablation: which part of MADA helps? Each correction alone and left out, hyper-learning-rates, each coefficient.

Rows are MADA with one thing changed, on the two tasks that take seconds. Cells and seeds are a subset of the contest's,
and the runs of AdamW and MADA are the same runs. The bounds on the coefficients are the same in all rows.
"""

from optim import MADA
from reproduce import contest
from reproduce.contest import START, Cell, made
from reproduce.runs import Run

# at the paper's hyper-learning-rates, which are the default of hyper_scale="raw"
RAW = {"hyper_scale": "raw", "domain": {"beta2": (0.501, 0.9999)}}
POWERS = {"debias": "powers"}
LEARNED = tuple(MADA.domain)
GROUPS = {
    "The three corrections": {
        "AdamW": {"optimizer": "adam"},
        "MADA": {},
        "without gathered weights": POWERS,
        "without relative hyper-gradients": RAW | {"variant": "factor"},
        "without beta2's time scale": {"variant": "linear"},
        "gathered weights alone": RAW,
        "relative hyper-gradients alone": POWERS | {"variant": "linear"},
        "beta2's time scale alone": RAW | POWERS | {"variant": "factor"},
        "none of the three": RAW | POWERS,
    },
    "The hyper-learning-rate": {"hyper_lr = 3e-3": {"hyper_lr": 3e-3}, "hyper_lr = 3e-2": {"hyper_lr": 3e-2}},
    "A coefficient left out": {
        f"{name} fixed": {"learn": tuple(other for other in LEARNED if other != name)} for name in LEARNED
    },
    "A coefficient alone": {f"{name} alone": {"learn": (name,)} for name in LEARNED},
    "Another step": {"by the cosine": {"variant": "cosine"}},
}
ROWS = {row: given for rows in GROUPS.values() for row, given in rows.items()}
STARTS = (START, (0.9, 0.999), (0.5, 0.75), (0.99, 0.6))
TASKS = {
    name: it._replace(rates=(it.rates[1], it.rates[-2]), betas=STARTS, seeds=3)
    for name, it in contest.TASKS.items()
    if name in ("digits", "factorization")
}
SCALES = {"smoke": ("digits",), "cpu": tuple(TASKS), "gpu": tuple(TASKS)}


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task."""
    task = TASKS[name]
    cells = [Cell(rate, betas) for betas in task.betas for rate in task.rates]
    return made(task, scale, seeds, dict.fromkeys(ROWS, cells), contest.of_mada(ROWS))
