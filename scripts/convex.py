"""The convex problem that Adam fails (Reddi et al., 2018; eq. (33) of the paper): Figure 9.

    python scripts/convex.py config/convex.py    # T = 2,000,000, all optimizers at once; 3 minutes on a free CPU core

f_t(x) = 1010 x where t mod 101 = 1, else -10 x, for x in [-1, 1]: the best x is -1, and every step is followed by a
projection on [-1, 1]. metrics.jsonl has, by optimizer, x, the average regret sum_s (f_s(x_s) - f_s(-1)) / t, and the
coefficients. All optimizers are the one rule of optim/mada.py from a corner, with the hyper-learning-rates of the
setting `optimizers`, where 0 fixes a coefficient. They are elements of one tensor, and a whole step is one fused loop:
2,000,000 steps of a scalar cannot each wait for Python. tests/reproduce/test_convex.py compares with optim/.
"""

import sys
from collections.abc import Collection
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import checkpoints
import metrics
import settings
from devices import here, stop_signals
from optim.fuse import Loop, Rows
from optim.mada import BUFFERS, MADA, mada
from settings import Count, Finished, Fraction, Nonnegative, UserError

# -- folder [once, free]
out_dir = "out/convex"  # folder of metrics.jsonl and ckpt_last.pt
overwrite = False  # start over in an out_dir that holds another run, which is lost
# -- start [once]
init_from: Literal["scratch", "resume", "auto"] = "scratch"  # "resume": continue from out_dir's ckpt_last.pt
# -- evaluation
log_interval: Count = 2020  # steps between lines in metrics.jsonl: whole periods of 101, since x moves within each
# -- problem [kept]
steps: Count = 2_000_000  # T
x0 = 0.0  # where x starts
learning_rate: Nonnegative = 1e-2  # alpha
schedule: Literal["constant", "root"] = "constant"  # "root": alpha / sqrt(t)
# {name: what differs from Adam with fixed coefficients}: initial coefficients, hyper_lr (a number, or {name: number}),
# hyper_momentum {name: number}, hyper_scale, debias, second_moment, learning_rate, rule
optimizers = {"Adam": {}, "AVGrad": {"rho": 0.0}, "AMSGrad": {"rho": 0.0, "second_moment": "amsgrad"}}
beta1: Fraction = 0.9  # where all of them start, unless their settings say otherwise
beta2: Fraction = 0.99  # Reddi et al. use these two
rule: Literal["paper", "authors"] = "paper"  # of optim/mada.py
# -- end of settings

SETTINGS = settings.declared(__file__)
NAMES = tuple(MADA.domain)
VELOCITY = tuple(f"velocity_{name}" for name in NAMES)
WEIGHTS = ("w1", "w2", "w3")
STATE = ("x", "regret", "g", *BUFFERS, "v_mixed", *WEIGHTS, *NAMES, *VELOCITY)
FORMS = {  # of one optimizer: what it may say, its default first
    "second_moment": ("avgrad", "amsgrad"),
    "rule": ("paper", "authors"),
    "hyper_scale": ("relative", "raw"),
    "debias": ("weights", "powers"),
}
HYPER = (*[f"hyper_{name}" for name in NAMES], *[f"momentum_{name}" for name in NAMES])


def gradient(t: int) -> float:
    return 1010.0 if t % 101 == 1 else -10.0


def clamp(x, low, high):
    x = torch.where(x < low, low, x)
    return torch.where(x > high, high, x)


def bias(beta, t):
    """1 - beta^t, with the derivative 0 at beta = 0."""
    positive = beta > 0
    return 1 - torch.where(positive, torch.exp(t * torch.log(torch.where(positive, beta, 1.0))), 0.0)


def domain(hyper_scale):
    """{name: (low, high)} of learned coefficients."""
    return {**MADA.domain, **(MADA.raw_domain if hyper_scale == "raw" else {})}


def step(buffers, rule, hyper_scale, debias, schedule, *arguments):
    """One step of the online problem for one optimizer, on 0-D tensors, in optim/engine.py's order."""
    named = dict(zip((*STATE, "lr", *HYPER, "grad", "t"), arguments, strict=True))
    state, q, w = ({name: named[name] for name in names} for names in (buffers, NAMES, WEIGHTS))
    x, grad, t = (named[name] for name in ("x", "grad", "t"))
    last_t = torch.where(t > 1, t - 1, 1.0)
    lr, last_lr = (named["lr"] / torch.sqrt(s) if schedule == "root" else named["lr"] for s in (t, last_t))

    def biases(q, w, t):
        if debias == "powers":
            return {f"bias{i}": bias(q[f"beta{i}"], t) for i in (1, 2, 3)}
        return {f"bias{i}": w[f"w{i}"] * q[f"beta{i}"] + (1 - q[f"beta{i}"]) for i in (1, 2, 3)}

    def direction(g, state, q, w, t):
        return rule(g, **state, **q, **biases(q, w, t), t=t)

    regret = named["regret"] + grad * (x + 1)
    # look back: the hyper-gradients of the last update, and its new buffers
    _, pull_back, new = torch.func.vjp(lambda q: direction(named["g"], state, q, w, last_t), q, has_aux=True)
    unit = last_lr * grad.abs() if hyper_scale == "relative" else 1.0  # no gradient of this problem is 0
    (h,) = pull_back(-last_lr * grad)
    state = {name: torch.where(t > 1, new[name], state[name]) for name in buffers}
    gathered = biases(q, w, last_t)
    w = {f"w{i}": torch.where(t > 1, gathered[f"bias{i}"], w[f"w{i}"]) for i in (1, 2, 3)}
    # learn
    velocity = {}
    for name, (low, high) in domain(hyper_scale).items():
        push = torch.where(t > 1, clamp(h[name] / unit, -10.0, 10.0), 0.0)
        velocity[f"velocity_{name}"] = named[f"momentum_{name}"] * named[f"velocity_{name}"] + push
        moved = q[name] - named[f"hyper_{name}"] * velocity[f"velocity_{name}"]
        if hyper_scale == "relative" and name in MADA.time_scales:
            moved = 1 - (1 - q[name]) * torch.exp(named[f"hyper_{name}"] * velocity[f"velocity_{name}"])
        q[name] = torch.where(named[f"hyper_{name}"] > 0, clamp(moved, low, high), q[name])
    # move, and project
    d, _ = direction(grad, state, q, w, t)
    x = clamp(x - lr * d, -1.0, 1.0)
    values = named | state | q | w | velocity | {"x": x, "regret": regret, "g": grad}
    return [values[name] for name in STATE], []


def loop(second_moment, rule, hyper_scale, debias, schedule):
    """The fused step of all optimizers that have these forms."""
    buffers = (*BUFFERS, *["v_mixed"] * (second_moment == "amsgrad"))
    update = partial(mada, rule=rule, second_moment=second_moment)
    function = partial(step, buffers, update, hyper_scale, debias, schedule)
    return Loop(function, (*STATE, "lr", *HYPER), ("grad", "t"), STATE)


def forms(own, cfg):
    """An optimizer's choice of each of FORMS, a tuple. rule="authors" has other defaults."""
    rule = own.get("rule", cfg.rule)
    own = {"hyper_scale": "raw", "debias": "powers"} | own if rule == "authors" else own
    return tuple(({"rule": rule} | own).get(name, choices[0]) for name, choices in FORMS.items())


def start(own, cfg):
    """{name: value} that one optimizer starts from. Raises UserError."""
    rates, momenta = (
        it if isinstance(it, dict) else dict.fromkeys(NAMES, it)
        for it in (own.get("hyper_lr", {}), own.get("hyper_momentum", {}))
    )
    values = dict.fromkeys((*STATE, *HYPER), 0.0)
    values |= {"x": cfg.x0, "beta1": cfg.beta1, "beta2": cfg.beta2, "rho": 1.0, "c": 1.0, "gamma": 1.0}
    values |= {f"hyper_{name}": float(rate) for name, rate in rates.items()}
    values |= {f"momentum_{name}": float(momentum) for name, momentum in momenta.items()}
    values |= {"lr": float(own.get("learning_rate", cfg.learning_rate))}
    values |= {name: float(value) for name, value in own.items() if name in NAMES}
    unknown = {*own} - {*NAMES, "hyper_lr", "hyper_momentum", "learning_rate", *FORMS} | {*rates, *momenta} - {*NAMES}
    found = dict(zip(FORMS, forms(own, cfg), strict=True))
    unknown |= {f"{name}={value!r}" for name, value in found.items() if value not in FORMS[name]}
    if unknown:
        raise UserError(
            f"optimizers: {own!r} has {', '.join(sorted(unknown))}; it can have {', '.join(NAMES)}, hyper_lr, "
            "hyper_momentum, learning_rate and "
            + ", ".join(f"{name} ({' or '.join(choices)})" for name, choices in FORMS.items())
        )
    for name, (low, high) in domain(found["hyper_scale"]).items():
        if values[f"hyper_{name}"] > 0 and not low <= values[name] <= high:
            raise UserError(f"optimizers: {name}={values[name]} must lie in [{low}, {high}] to be learned")
    return values


def train(cfg: dict, given: Collection[str] = ()) -> float | None:
    """Run all optimizers. cfg: all settings, a dict; given: names of those that were set rather than defaulted.

    Returns the last average regret of the last optimizer, or None if it was stopped before its end. Raises UserError.
    """
    with checkpoints.hold(cfg["out_dir"]):
        return run(cfg, given)


def run(cfg, given):
    """`train`, in a folder that is ours."""
    checkpoint, cfg = checkpoints.start(cfg, given, SETTINGS, ("columns", "iter", "config"))
    if not -1 <= cfg["x0"] <= 1:
        raise UserError("x0 must lie in [-1, 1]")
    resolved, cfg = cfg, SimpleNamespace(**cfg)

    if not cfg.optimizers or not all(isinstance(own, dict) for own in cfg.optimizers.values()):
        raise UserError(f"optimizers={cfg.optimizers!r} must be {{name: its settings}}, at least one, each a dict")
    members = {}  # what FORMS names: names of the optimizers
    try:
        starts = {name: start(own, cfg) for name, own in cfg.optimizers.items()}
        for name, own in cfg.optimizers.items():
            members.setdefault(forms(own, cfg), []).append(name)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizers: {settings.one_line(error)}") from None
    columns = {
        kind: [
            torch.tensor([starts[name][key] for name in names], dtype=torch.float64) for key in (*STATE, "lr", *HYPER)
        ]
        for kind, names in members.items()
    }
    it = 0
    if checkpoint:
        columns, it = checkpoint["columns"], checkpoint["iter"]
        if it >= cfg.steps:
            raise Finished(f"the run in {cfg.out_dir} has all its {it} steps")
    else:
        checkpoints.clear(cfg.out_dir)  # of a run that is overwritten
    header = {"config": resolved, **here("cpu"), "cpu_threads": 1, "dtype": "float64"}
    log = metrics.Metrics(cfg.out_dir, header, it, cfg.steps)
    loops = {kind: loop(*kind, cfg.schedule) for kind in members}
    scalars = torch.zeros(1, 2, dtype=torch.float64)  # gradient and t
    rows = {kind: Rows([columns[kind]]) for kind in loops}

    def values(key):
        """{optimizer: value} in the order of the settings."""
        found = {
            name: value
            for kind, names in members.items()
            for name, value in zip(names, columns[kind][STATE.index(key)].tolist(), strict=True)
        }
        return {name: found[name] for name in cfg.optimizers}

    regret = {}
    with closing(log), stop_signals() as stop:
        stopping = False
        while it < cfg.steps and not stopping:
            it += 1
            scalars[0, 0], scalars[0, 1] = gradient(it), it
            for kind, one_step in loops.items():
                one_step(rows[kind], scalars)
            if it % cfg.log_interval == 0 or it == cfg.steps:
                regret = {name: value / it for name, value in values("regret").items()}
                log.write({"iter": it, "x": values("x"), "regret": regret} | {name: values(name) for name in NAMES})
            stopping = stop.is_set()
            if it % (50 * cfg.log_interval) == 0 or it == cfg.steps or stopping:
                checkpoints.save({"columns": columns, "iter": it, "config": resolved}, cfg.out_dir)
        if it < cfg.steps:
            log.say(f"stopped after step {it}; resume with --init_from=auto --out_dir={cfg.out_dir}")
    return list(regret.values())[-1] if it == cfg.steps else None


if __name__ == "__main__":
    settings.main(train, __file__)
