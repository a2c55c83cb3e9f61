"""A learning rate that is set far too small: what does it cost, where it may grow, and what if it was right?

MADA(grow_lr=True) at fractions and multiples of AdamW's best rate in the contest, compared with AdamW and MADA at the
same rates, and with optimizers that ask for no rate (Prodigy) or no schedule (schedule-free AdamW). Its one setting,
hyper_lr 0.3, was chosen on digits, factorization and shakespeare, with seeds 1337 and 1338 (shakespeare: 1337). From
Muon's corner a row has hyper_lr 1, chosen on shakespeare with seed 1337; the larger GPTs are there for it.
"""

from reproduce import contest, muon
from reproduce.contest import START, Cell, made
from reproduce.runs import Run

GROWS, FROM_MUON = {"grow_lr": True}, muon.ROWS["MADA from Muon's corner"]
ROWS = {
    "MADA, growing rate": GROWS,
    "MADA": {},
    "AdamW": {"optimizer": "adam"},
    "MADA from Muon's corner, growing rate": GROWS | FROM_MUON,
    "MADA from Muon's corner, growing rate (hyper_lr 1)": GROWS | FROM_MUON | {"hyper_lr": {"lr": 1.0}},
    "MADA from Muon's corner": FROM_MUON,
    "Prodigy": {"optimizer": "adam", "variant": "prodigy"},
    "schedule-free AdamW": {"optimizer": "adam", "variant": "schedulefree", "schedule": "constant"},
}
RIVALS = ("Prodigy", "schedule-free AdamW")
MATRICES = ("digits", "shakespeare")  # the cheap tasks that have hidden matrices for Muon
# AdamW's best rates in the contest
BEST = {"digits": 1.6e-2, "factorization": 6.4e-2, "cartpole": 1.28e-1, "acrobot": 6.4e-2, "shakespeare": 1.6e-2,
        "openwebtext": 9.6e-3, "shakespeare-large": 4e-3}  # fmt: skip
FRACTIONS = (1 / 256, 1 / 16, 1, 2)
COSTLY = {  # where a run takes minutes: which of FRACTIONS a row is run at
    "MADA from Muon's corner, growing rate (hyper_lr 1)": FRACTIONS,
    "MADA from Muon's corner": (1, 2),
    "AdamW": (1,),
}


def rows_of(name: str) -> tuple[str, ...]:
    """The rows of a task: rivals run in scripts/train_small.py only, and Muon needs hidden matrices."""
    if contest.TASKS[name].costly:
        return tuple(COSTLY)
    return tuple(row for row in ROWS if (row not in RIVALS or name != "shakespeare")
                 and ("Muon" not in row or name in MATRICES))  # fmt: skip


def rates_of(name: str, row: str) -> tuple[float, ...]:
    """The learning rates of a row. Prodigy has one, a factor on its own."""
    if row == "Prodigy":
        return (1.0,)
    return tuple(rate for rate, part in zip(TASKS[name].rates, FRACTIONS, strict=True)
                 if not TASKS[name].costly or part in COSTLY[row])  # fmt: skip


TASKS = {
    name: contest.TASKS[name]._replace(
        rates=tuple(float(f"{best * part:.6g}") for part in FRACTIONS), betas=(START,), seeds=3, rows=rows_of(name)
    )
    for name, best in BEST.items()
}
SCALES = {"smoke": ("digits",), "cpu": tuple(TASKS), "gpu": tuple(TASKS)}


def runs(name: str, scale: str, seeds: int | None = None) -> dict[tuple[str, Cell, int], Run]:
    """{(row, cell, seed): run} of a task."""
    it = TASKS[name]
    cells = {row: [Cell(rate, START) for rate in rates_of(name, row)] for row in it.rows}
    return made(it, scale, seeds, cells, contest.of_mada(ROWS))
