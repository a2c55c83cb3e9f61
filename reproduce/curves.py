"""Pictures of runs of train.py, one or several together: losses, and the coefficients of optimizers that learn any."""

import os
from collections.abc import Mapping

import matplotlib.pyplot as plt

from reproduce.drawing import SYMBOLS, save, series, styles

UNITS = {"gpt2": "token", "bytes": "byte", "char": "character", None: "example"}  # by a data set's tokenizer
COLUMNS = 3  # of panels of coefficients, where several runs learn them


def draw(runs: Mapping[str, tuple[dict, list[dict]]], path: str | os.PathLike) -> None:
    """Write a picture of {name: (header, records)}, as metrics.read returns them for each run."""
    learned = {name: series(records, "coefficients") for name, (_, records) in runs.items()}
    learned = {name: (steps, values) for name, (steps, values) in learned.items() if steps}
    names = list(dict.fromkeys(key for _, values in learned.values() for key in values[0]))
    rows = [["loss"] * COLUMNS]
    if len(learned) == 1:
        rows.append(["coefficients"] * COLUMNS)
    elif learned:
        padded = names + ["."] * (-len(names) % COLUMNS)
        rows += [padded[i : i + COLUMNS] for i in range(0, len(padded), COLUMNS)]
    heights = [3.5] + [3.5 if len(learned) == 1 else 2.0] * (len(rows) - 1)
    fig, axes = plt.subplot_mosaic(rows, figsize=(7, sum(heights)), height_ratios=heights, layout="constrained")
    looks = styles(runs, lambda name: runs[name][0]["config"]["optimizer"])
    losses(axes["loss"], runs, looks)
    if len(learned) == 1:
        ((name, (steps, values)),) = learned.items()
        for key in names:
            axes["coefficients"].plot(steps, [value[key] for value in values], label=SYMBOLS.get(key, key), lw=1.2)
        axes["coefficients"].set(xlabel="step", ylabel="coefficient" if len(runs) == 1 else f"coefficient of {name}")
        axes["coefficients"].legend(ncols=2)
    else:
        for key in names:
            for name, (steps, values) in learned.items():
                if key in values[0]:
                    axes[key].plot(steps, [value[key] for value in values], lw=1.2, **looks[name])
            axes[key].set(title=SYMBOLS.get(key, key), xlabel="step")
            axes[key].ticklabel_format(axis="y", useOffset=False)
    axes["loss"].set_xlabel("step")
    save(fig, path)


def losses(ax, runs, looks):
    """Training losses as faint lines, validation losses as lines with markers."""
    for name, (_, records) in runs.items():
        labels = ("train loss", "val loss") if len(runs) == 1 else (None, name)
        ax.plot(*series(records, "train_loss"), label=labels[0], lw=1.0, alpha=0.4, **looks[name])
        ax.plot(*series(records, "val_loss"), label=labels[1], lw=1.4, marker="o", ms=3, **looks[name])
    unit = same(UNITS.get(header.get("data", {}).get("tokenizer"), "token") for header, _ in runs.values())
    ax.set(title=title([header for header, _ in runs.values()]), yscale="log")
    ax.set_ylabel(f"loss (nats per {unit})" if unit else "loss (nats, each run per its own tokens)")
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which("{x:g}")
    ax.legend()


def title(headers):
    """What all runs have in common."""
    configs = [header["config"] for header in headers]
    words = configs[0]["optimizer"] if len(headers) == 1 else f"{len(headers)} runs"
    if data := same(config.get("dataset") or config.get("model") for config in configs):
        words += f" on {data}"
    size, seed = same(header.get("parameters") for header in headers), same(config.get("seed") for config in configs)
    details = [f"{size / 1e6:.1f}M parameters"] * bool(size) + [f"seed {seed}"] * (seed is not None)
    return ": ".join([words, ", ".join(details)] if details else [words])


def same(values):
    """The value that all of them share, or None."""
    values = set(values)
    return values.pop() if len(values) == 1 else None
