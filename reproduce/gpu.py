"""What a GPU is expected to show of this repository, computed from bytes and operations, and the page in results/gpu
that compares it with what scripts/gpu_report.py measured."""

import re
from typing import NamedTuple

import torch

import optim
from model import peak_flops
from optim.codegen import traffic
from optim.passes import gradient_norms
from optim.plan import Plan
from reproduce.markdown import markdown

FIVE = ("beta1", "beta2", "beta3", "rho", "c")
LAYERS_WIDTH = {"124M": (12, 768), "355M": (24, 1024), "1.5B": (48, 1600)}
CONTEXT, VOCABULARY, TOKENS = 1024, 50304, 5 * 12 * 1024  # of a training iteration of GPT-2 124M
MEMORY = {  # bytes/s of a card's memory, from the vendors' data sheets; the first key that its name contains counts
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100 NVL": 3.9e12,
    "H100": 3.35e12,
    "A100-SXM4-40GB": 1.56e12,
    "A100": 2.04e12,
}
ATTAINED = 0.92  # of these, what a copy reaches
PRODUCTS = 0.40  # of bfloat16's peak, what forward and backward reach: a guess, from runs of such trainers
BENCHED = {"adamw": "adam", "mada": "mada", "mada, without lion": "mada", "hyperadam": "hyperadam"}  # of bench_optim
RUNS = {  # whole iterations: the config, and what the optimizer keeps and moves, as in BENCHED
    "adamw": ["config/train_gpt2_adam.py"],
    "hyperadam": ["config/train_gpt2_hyperadam.py"],
    "mada": ["config/train_gpt2_mada.py"],
    "mada, without lion": ["config/train_gpt2_mada.py", f"--learn={FIVE!r}"],
}
ERRORS = {"float32": 1.0e-6, "bfloat16": 7.6e-2, "float16": 9.1e-3}  # of the C loops, which round in the same places

PREDICTED = """\
# Predicted for an H100, before anything was measured on a GPU

`make gpu-report` on a machine with a GPU puts its measurements next to these, in report.md. \
Without one it prints this page:
`python scripts/gpu_report.py > results/gpu/README.md`. A goal may be one that is predicted to be missed.

"""


class Prediction(NamedTuple):
    """What a measurement is expected to be, and why."""

    value: float
    goal: float | None  # a bound on the measurement
    why: str
    least: bool = False  # whether the goal is a bound from below


def elements(size):
    """Parameters of a GPT-2 without biases."""
    layers, width = LAYERS_WIDTH[size]
    return 12 * layers * width**2 + (2 * layers + 1) * width + (VOCABULARY + CONTEXT) * width


def work():
    """FLOP of a training iteration of GPT-2 124M, as model.py counts them."""
    layers, width = LAYERS_WIDTH["124M"]
    return TOKENS * (6 * (elements("124M") - CONTEXT * width) + 12 * layers * width * CONTEXT)


def costs(row):
    """Bytes per parameter that a row of BENCHED moves in a step, and those that it keeps, in float32."""
    if row == "adamw":
        return 4 + 4 * 4 + 3 * 4, 8  # the norm; gradient, parameter, m and v are read; all but the gradient are written
    matrix = torch.zeros(2, 2, requires_grad=True)
    matrix.grad = torch.zeros_like(matrix)
    optimizer = optim.build(BENCHED[row], [matrix], lr=1.0, **({"learn": FIVE} if "without" in row else {}))
    with torch.no_grad():
        batch = Plan(optimizer).batches[0]
    dtypes, loops = batch.rows.kinds[0].dtypes, (gradient_norms(), batch.loops.look_back, batch.loops.move)
    return sum(sum(traffic(loop, dtypes)) for loop in loops), sum(dtype.itemsize for dtype in dtypes[2:])


def predictions(card):
    """{measurement: Prediction} for a card of this name; for an H100 where it is not known."""
    find = (memory for key, memory in MEMORY.items() if re.search(rf"\b{key}\b", card))
    sheet, flops = next(find, MEMORY["H100"]), peak_flops(card) or peak_flops("H100")
    memory, found = ATTAINED * sheet, {}

    def predict(name, value, why, goal=None, least=False):
        found[name] = Prediction(value, goal, why, least)

    for dtype, error in ERRORS.items():
        predict(f"{dtype}: error of 10 steps", error, "root mean square, of the C loops on a CPU", 2 * error)
    predict("optimizers whose step waits", 0, "no step reads a value (tests/optim/test_waiting.py)", 0)
    for size in LAYERS_WIDTH:
        for row in BENCHED:
            moved, _ = costs(row)
            amount = moved * elements(size)
            why = f"{moved} bytes a parameter at {memory / 1e12:.2f} TB/s; goal: 1.3 times the data sheet's time"
            predict(f"{size}, {row}: ms", 1e3 * amount / memory, why, 1.3e3 * amount / sheet)
    for tensors, share in ((148, 0.5), (2000, 0.35)):
        why = f"{share} on a CPU; twice that with the launches"
        predict(f"{tensors} tensors, mada: CPU time, x foreach", 2 * share, why, 1.5)

    layers, width = LAYERS_WIDTH["124M"]
    rest = 12 * CONTEXT * (34 * width * layers + 10 * VOCABULARY)  # bytes: of blocks; of logits, in three copies
    base = None
    for row in RUNS:
        moved, kept = costs(row)
        seconds = work() / (PRODUCTS * flops) + moved * elements("124M") / memory
        gb = ((8 + kept) * elements("124M") + rest) / 1e9
        base = base or (seconds, gb)
        why = f"{1e-12 * work():.1f} TFLOP at {PRODUCTS:.0%} of {flops / 1e12:.0f} TFLOP/s, and the step"
        predict(f"iteration, {row}: ms", 1e3 * seconds, why)
        predict(f"iteration, {row}: MFU", work() / flops / seconds, why, 0.5, least=True)
        predict(f"iteration, {row}: GB", gb, f"{8 + kept} bytes a parameter, {rest / 1e9:.1f} GB of activations")
        if row != "adamw":
            predict(f"iteration, {row}: time, x adamw", seconds / base[0], "as above; the paper's MADA 1.31", 1.03)
            predict(f"iteration, {row}: memory, x adamw", gb / base[1], "as above; the paper's MADA 1.61", 1.2)

    layers, width = LAYERS_WIDTH["1.5B"]
    bytes_each, rest = 8 + costs("mada")[1], 4 * CONTEXT * (2 * width * layers + 34 * width + 10 * VOCABULARY)
    why = f"{bytes_each} bytes a parameter; the inputs of blocks, one block, logits: {rest / 1e9:.1f} GB"
    predict("XL with mada on one card: GB", (bytes_each * elements("1.5B") + rest) / 1e9, why)
    return found


def bound(expected: Prediction) -> str:
    return "" if expected.goal is None else ("≥ " if expected.least else "≤ ") + f"{expected.goal:.3g}"


def verdict(value: float | None, expected: Prediction) -> str:
    if value is None:
        return "not measured"
    if expected.goal is None:
        return ""
    return "kept" if (value >= expected.goal if expected.least else value <= expected.goal) else "MISSED"


def table(found: dict[str, float], expected: dict[str, Prediction]) -> str:
    """Measurements next to predictions and goals, as Markdown; without any, predictions and goals alone."""
    if not found:
        lines = [[name, f"{row.value:.3g}", bound(row), row.why] for name, row in expected.items()]
        return markdown(["", "predicted", "goal", "from"], lines)
    lines = []
    for name, row in expected.items():
        value = "" if name not in found else f"{found[name]:.3g}"
        lines.append([name, value, f"{row.value:.3g}", bound(row), verdict(found.get(name), row), row.why])
    return markdown(["", "measured", "predicted", "goal", "", "the prediction is from"], lines)
