"""What a scale does to the paper's proportions, computed from the configs: the first line of every table and figure."""

import os

from reproduce import ROOT, store
from reproduce.experiments import BASELINE, LINEUPS, NAMES, PROFILE
from reproduce.grid import cells
from reproduce.runs import run


def schedule(cfg: dict) -> int:
    """The steps of the whole schedule, which a run may leave before its end."""
    return cfg.get("lr_decay_iters") or cfg["max_iters"]


def waiting(cfg: dict, of: float) -> float | None:
    """hyper_start as a percentage of other steps; None where nothing waits."""
    return 100 * cfg["hyper_start"] / max(1, of) if cfg["hyper_start"] else None


def decayed(cfg: dict) -> float:
    """Weight decay times the schedule's sum of learning rates: to first order, by how much decay shrinks a weight."""
    rise, peak, last = cfg["warmup_iters"], cfg["learning_rate"], cfg["min_lr"]
    return cfg["weight_decay"] * (rise * peak / 2 + (schedule(cfg) - rise) * (peak + last) / 2)


def hyper_rate(cfg: dict, *names: str) -> float | None:
    """The hyper-learning-rate that all these coefficients have; None where that is the optimizer's default."""
    given = cfg["hyper_lr"]
    rates = {given.get(name) for name in names} if isinstance(given, dict) else {given} if "beta1" in names else {None}
    return rates.pop() if len(rates) == 1 else None


LANGUAGE = {  # of train.py's settings
    "data": lambda cfg: cfg["dataset"],
    "layers": lambda cfg: cfg["n_layer"],
    "width": lambda cfg: cfg["n_embd"],
    "context": lambda cfg: cfg["block_size"],
    "steps": lambda cfg: cfg["max_iters"],
    "sequences per step": lambda cfg: cfg["batch_size"],
    "tokens seen per weight of the blocks": lambda cfg: (
        cfg["max_iters"] * cfg["batch_size"] * cfg["block_size"] / (12 * cfg["n_layer"] * cfg["n_embd"] ** 2)
    ),
    "% of the schedule that is run": lambda cfg: 100 * cfg["max_iters"] / schedule(cfg),
    "warm-up as % of the schedule": lambda cfg: 100 * cfg["warmup_iters"] / schedule(cfg),
    "hyper_start as % of the schedule": lambda cfg: waiting(cfg, schedule(cfg)),
    "hyper_start as % of the warm-up": lambda cfg: waiting(cfg, cfg["warmup_iters"]),
    "hyper-learning-rate of the betas": lambda cfg: hyper_rate(cfg, "beta1", "beta2"),
    "hyper-learning-rate of the others": lambda cfg: hyper_rate(cfg, "beta3", "rho", "c", "gamma"),
    "peak rate": lambda cfg: cfg["learning_rate"],
    "last over peak rate as %": lambda cfg: 100 * cfg["min_lr"] / cfg["learning_rate"],
    "weight decay x sum of rates": decayed,
    "dropout": lambda cfg: cfg["dropout"],
}
VISION = {
    "images": lambda cfg: cfg["images"] or 50_000,
    "batch_size": lambda cfg: cfg["batch_size"],
    "epochs": lambda cfg: cfg["epochs"],
}
CONVEX = {"T": lambda cfg: cfg["steps"]}
QUANTITIES = {"train.py": LANGUAGE, "train_cifar10.py": VISION, "convex.py": CONVEX}


def number(value: str | float) -> str:
    """With two or more significant digits, and no exponent where none is needed."""
    if isinstance(value, str):
        return value
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2g}".replace("e-0", "e-") if value < 100 else f"{value:.0f}"


def differences(pairs: dict, quantities: dict) -> list[str]:
    """pairs: {label: (the paper's settings, ours)} -> the quantities that differ, in words, by groups of labels."""
    found = []
    for name, quantity in quantities.items():
        groups = {}
        for label, settings in pairs.items():
            paper, ours = map(quantity, settings)
            if None not in (paper, ours):
                groups.setdefault((number(ours), number(paper)), []).append(label)
        most = max(groups, key=lambda group: len(groups[group]), default=None)
        for (ours, paper), labels in groups.items():
            if ours != paper:
                of = "" if (ours, paper) == most else f" for {', '.join(labels)}"
                found.append(f"{name}{of} {ours} ({paper})")
    return found


def whose_rate(lineup: str, scale: str) -> str:
    """Whether a scale has the baseline's learning rate from the paper, in a word before "learning rate"."""
    paper, ours = (store.base(lineup, BASELINE, it).cfg for it in (None, scale))
    return "the paper's" if paper["learning_rate"] == ours["learning_rate"] else "the scale's"


def of_grid(scale: str, files: dict) -> list[str]:
    """files: {scale: (sweep file, seeds)}."""
    ours, paper = (cells(os.path.join(ROOT, files[at][0]), [])[0] for at in (scale, "paper"))
    betas = len({(it.cfg["beta1"], it.cfg["beta2"]) for it in ours})
    where = [f"cells {betas} ({len(paper) // 3})"] * (len(ours) != len(paper))
    return where + differences({"": (paper[0].cfg, ours[0].cfg)}, LANGUAGE)


def of_profile(scale: str, row: str) -> list[str]:
    """row: MADA's config file."""
    (files, batches, ranks), (all_files, large, all_ranks) = PROFILE[scale], PROFILE["paper"]
    each = ((all_files, large), (files, batches))
    pair = [run("train.py", row, *where, *next(iter(what.values()))).cfg for where, what in each]
    names = ("data", "layers", "width", "context", "sequences per step")
    found = differences({"": pair}, {name: LANGUAGE[name] for name in names})
    return found + [f"processes {ranks} ({all_ranks})"] * (ranks != all_ranks)


def of_lineup(scale: str, lineup: str, labels: tuple) -> list[str]:
    """labels: of the rows that are shown."""
    rows = {label: tuple(store.base(lineup, label, at).cfg for at in (None, scale)) for label in labels}
    return differences(rows, QUANTITIES[os.path.basename(LINEUPS[lineup].script)])


def sentence(name: str, scale: str, lineup: str | None = None, labels: tuple = ()) -> tuple[bool, str]:
    """Whether a name, or these rows of a lineup, keep the paper's proportions at a scale; and a sentence about it."""
    kind, _, rest, _ = NAMES[name]
    note = ""
    if kind == "grid":
        found = of_grid(scale, rest)
    elif kind == "profile":
        found = of_profile(scale, rest["MADA"][0])
    else:
        found, note = of_lineup(scale, lineup, labels or LINEUPS[lineup].rows), LINEUPS[lineup].scales[scale].note
    head = f"Reduced ({scale}), ours and in brackets the paper's: {'; '.join(found)}." if found else "Full scale."
    return not found, f"{head} {note}".strip()
