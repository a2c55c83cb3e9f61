"""Pictures: seeds as bands, one color per optimizer, no number that is not handed in. Imports nothing of the repo."""

import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import mean, stdev

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SYMBOLS = {
    "beta1": r"$\beta_1$",
    "beta2": r"$\beta_2$",
    "beta3": r"$\beta_3$",
    "rho": r"$\rho$",
    "c": "$c$",
    "gamma": r"$\gamma$",
}
COLORS = {  # of an optimizer and its variants, which differ by their lines; distinct for the color-blind too
    "adam": "#0072B2",
    "adamw": "#0072B2",
    "hyperadam": "#56B4E9",
    "avgrad": "#CC79A7",
    "amsgrad": "#882255",
    "adan": "#009E73",
    "lion": "#E69F00",
    "yogi": "#999933",
    "muon": "#332288",
    "schedule-free adamw": "#117733",
    "sgd": "#777777",
    "momentum sgd": "#777777",
    "mada": "#D55E00",
    "mada-fs": "#F5A274",
}
NAMES = {"adam": "Adam", "hyperadam": "HyperAdam", "mada": "MADA"}  # of train.py's setting `optimizer`
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (1, 4)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8}


def family(label: str) -> str:
    """The optimizer that a row's label starts with: "MADA (rho_0 = 0)" -> "mada"."""
    name = label.lower().partition(" (")[0].partition(",")[0].removesuffix("-")
    return name if name in COLORS else name.split()[0]


def color(label: str) -> str:
    return COLORS.get(family(label), "#000000")


def pretty(label: str) -> str:
    """A row's label with the paper's symbols."""
    label = label.replace("rho_0", r"$\rho_0$").replace("beta2", r"$\beta_2$")
    return re.sub(r"(?<=\w)-(?=$| \(|,)", "$^-$", label)


def styles(labels: Iterable[str], of: Callable[[str], str] = family) -> dict[str, dict]:
    """{label: color and linestyle}: a color for each optimizer, `of` the label; its variants have other lines."""
    seen, found = Counter(), {}
    for label in labels:
        found[label] = {"color": color(of(label)), "linestyle": LINES[seen[of(label)] % len(LINES)]}
        seen[of(label)] += 1
    return found


def save(fig, path: str | os.PathLike, caption: str = ""):
    """Write a figure, whole or not at all, with its caption below it."""
    if caption:
        fig.supxlabel(textwrap.fill(caption, int(18 * fig.get_figwidth())), fontsize=7, x=0.01, ha="left")
    fig.savefig(f"{path}.{os.getpid()}.part", dpi=150, format="png")
    plt.close(fig)
    os.replace(f"{path}.{os.getpid()}.part", path)


def series(records: list[dict], key: str) -> tuple[list, list]:
    """The steps at which `key` was logged, and its values there."""
    pairs = [(record["iter"], record[key]) for record in records if key in record]
    return [step for step, _ in pairs], [value for _, value in pairs]


def band(ax, steps: list, seeds: list[list], **style):
    """The mean over seeds as a line, and their range as a band; each seed: values at `steps`."""
    values = np.array(seeds, dtype=float)
    ax.plot(steps, values.mean(0), lw=1.4, **style)
    if len(values) > 1:
        ax.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.15, lw=0)


def plain(axis):
    """Numbers without powers on a logarithmic axis, at 1, 2 and 5, so that they do not overlap."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter("")
    axis.set_major_formatter("{x:g}")


def lines(ax, found: dict, ylabel: str):
    """found: {label: (steps, [values of a seed, ...])} on one panel."""
    for label, style in styles(list(found)).items():
        band(ax, *found[label], label=pretty(label), **style)
    ax.set(xlabel="step", ylabel=ylabel)
    ax.legend()


def curves(panels: dict, path: str | os.PathLike, ylabel: str, caption: str):
    """panels: {title: {label: (steps, [values of a seed, ...])}}, side by side; steps on a logarithmic axis."""
    fig, found = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.6), layout="constrained", squeeze=False)
    for ax, (title, each) in zip(found[0], panels.items(), strict=True):
        lines(ax, each, ylabel)
        ax.set(title=title, xscale="log")
        plain(ax.xaxis)
    save(fig, path, caption)


def steady(ax):
    """Keep rounding from looking like motion."""
    low, high = ax.get_ylim()
    if high - low < 0.02:
        ax.set_ylim((low + high) / 2 - 0.01, (low + high) / 2 + 0.01)
    ax.ticklabel_format(useOffset=False)


def coefficients(lines: dict, path: str | os.PathLike, caption: str):
    """A panel per coefficient. lines: {label: {coefficient: (% of the schedule, [values of a seed, ...])}}."""
    fig, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for ax, (key, symbol) in zip(axes.flat, SYMBOLS.items(), strict=True):
        for (label, found), style in zip(lines.items(), styles(list(lines)).values(), strict=True):
            band(ax, *found[key], label=pretty(label), **style)
        ax.set_title(symbol)
        steady(ax)
    for ax in axes[1]:
        ax.set_xlabel("% of the schedule")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines))
    save(fig, path, caption)


def grid(rows: dict, path: str | os.PathLike, caption: str):
    """Figure 8: a row of panels per loss, a panel per optimizer, a square per cell; a cross where a run diverged.

    rows: {what the loss is: {optimizer: {initial (beta1, beta2): loss}}}; each row has one logarithmic color scale.
    """
    optimizers = list(next(iter(rows.values())))
    shape = len(rows), len(optimizers)
    size = 1.3 + 3.5 * shape[1], 3.2 * shape[0] + 0.4
    fig, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for i, (what, panels) in enumerate(rows.items()):
        finite = sorted(z for panel in panels.values() for z in panel.values() if math.isfinite(z))
        low, high = (finite[int(share * (len(finite) - 1))] for share in (0.01, 0.9)) if finite else (1, 2)
        scale = matplotlib.colors.LogNorm(low, max(high, 1.001 * low))  # the worst tenth has one color
        for ax, optimizer in zip(axes[i], optimizers, strict=True):
            points = panels[optimizer]
            xs, ys = (sorted({at[k] for at in points}) for k in (0, 1))
            z = np.array([[points.get((a, b), math.nan) for a in xs] for b in ys])
            ax.imshow(z, origin="lower", aspect="auto", norm=scale, cmap="viridis_r")
            for (a, b), loss in points.items():
                if not math.isfinite(loss):
                    ax.plot(xs.index(a), ys.index(b), "x", color="red", ms=7)
            every = max(1, len(xs) // 6)
            ax.set_xticks(range(0, len(xs), every), [f"{a:g}" for a in xs[::every]])
            every = max(1, len(ys) // 6)
            ax.set_yticks(range(0, len(ys), every), [f"{b:g}" for b in ys[::every]])
            ax.grid(False)
            ax.set(title=f"{NAMES.get(optimizer, optimizer)}: {what}", xlabel=f"initial {SYMBOLS['beta1']}")
        axes[i, 0].set_ylabel(f"initial {SYMBOLS['beta2']}")
        bar = fig.colorbar(matplotlib.cm.ScalarMappable(scale, "viridis_r"), ax=axes[i], extend="both")
        bar.set_label(f"{what} (nats per character)")
        ticks = np.geomspace(scale.vmin, scale.vmax, 6)
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], minor=False)
        bar.minorticks_off()
    save(fig, path, caption)


def gaps(ours: dict, paper: dict, baseline: str, key: str, extra: list, path: str | os.PathLike, caption: str):
    """A table as a picture: each row's differences to the baseline, their mean and two standard errors; the paper's.

    ours: {label: [difference of a seed, ...]}; paper: {label: difference}; extra: functions that draw on a panel each.
    """
    labels = list(ours)[::-1]
    size = 6.2 + 4.6 * len(extra), 1.4 + 0.36 * max(8, len(labels))
    fig, axes = plt.subplots(1, 1 + len(extra), figsize=size, layout="constrained", squeeze=False)
    ax = axes[0, 0]
    for place, label in enumerate(labels):
        values = ours[label]
        if values:
            ax.plot(values, [place] * len(values), "o", color=color(label), ms=4, alpha=0.6, zorder=3)
            middle = mean(values)
            error = 2 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0
            ax.errorbar(middle, place, xerr=error, fmt="|", color=color(label), ms=12, mew=2, capsize=4)
        if label in paper:
            ax.plot(paper[label], place, "D", mfc="none", mec="black", ms=7, zorder=4)
    ax.plot([], [], "o", color="gray", ms=4, label="ours, a seed")
    ax.errorbar([], [], xerr=[], fmt="|", color="gray", ms=12, capsize=4, label="ours, mean and two standard errors")
    ax.plot([], [], "D", mfc="none", mec="black", label="the paper")
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(labels)), [pretty(label) for label in labels])
    ax.set(xlabel=f"{key}: difference to {baseline}", ylim=(-0.6, len(labels) - 0.4))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for draw, more in zip(extra, axes[0, 1:], strict=True):
        draw(more)
    save(fig, path, caption)


def rates(ax, found: dict, key: str):
    """Final values over factors on the scale's learning rate. found: {label: {factor: [value of a seed, ...]}}."""
    look = styles(list(found))
    for label, by_factor in found.items():
        factors = sorted(by_factor)
        means = [mean(by_factor[factor]) for factor in factors]
        ax.plot(factors, means, lw=1.4, label=pretty(label), **look[label])
        for factor in factors:
            ax.plot([factor] * len(by_factor[factor]), by_factor[factor], "o", ms=4, alpha=0.6, color=color(label))
    every = sorted({factor for factors in found.values() for factor in factors})
    ax.set_xscale("log")
    ax.set_xticks(every, [f"x{factor:g}" for factor in every])
    ax.minorticks_off()
    ax.set(xlabel="factor on the learning rate", ylabel=f"{key}: seeds, and their mean")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)


def bars(ours: dict, paper: dict, path: str | os.PathLike, caption: str):
    """Appendix D. ours, paper: {label: (GB, seconds)}, each as multiples of Adam's at the same batch."""

    def relative(found, i):
        base = {label.partition(", ")[2]: it[i] for label, it in found.items() if label.partition(", ")[0] == "Adam"}
        return {label: it[i] / base[label.partition(", ")[2]] for label, it in found.items()}

    fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", sharey=True)
    for ax, i, what in zip(axes, (1, 0), ("time per iteration", "peak memory"), strict=True):
        mine, theirs = relative(ours, i), relative(paper, i)
        labels = list(mine)[::-1]
        shades = [color(label) for label in labels]
        ax.barh(labels, [mine[label] for label in labels], color=shades, height=0.6, label="ours")
        known = [label for label in labels if label in theirs]
        values, words = [theirs[label] for label in known], "the paper, where it has the row"
        ax.plot(values, known, "D", mfc="none", mec="black", label=words)
        ax.set(xlabel=f"{what}, Adam's at that batch = 1", xlim=(0, None))
    fig.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside upper center")
    save(fig, path, caption)


def costs(rows: list[dict], title: str, path: str | os.PathLike):
    """What an optimizer step costs, from bench_optim.py. Each row: {"name", "ms", "ratio" to the first, "floor_ms"}."""
    fig, ax = plt.subplots(figsize=(8, 0.38 * len(rows) + 1.6), layout="constrained")
    names = [row["name"] for row in rows][::-1]
    shades = [color(name) for name in names]
    ax.barh(names, [row["ms"] for row in rows][::-1], color=shades, height=0.6)
    ax.plot([row["floor_ms"] for row in rows][::-1], names, "k|", ms=14, mew=2, label="floor: one pass at copy speed")
    label = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for row in rows:
        ax.annotate(f"{row['ratio']:.2f}x", (max(row["ms"], row["floor_ms"]), row["name"]), **label)
    ax.set(xlabel="milliseconds per step (median)")
    ax.grid(visible=False, axis="y")
    ax.set_title(textwrap.fill(title, 90), fontsize=9)
    ax.margins(x=0.12)
    ax.legend(loc="lower right")
    save(fig, path)


WAYS_IN_WORDS = {  # of going on, in scripts/horizon.py
    "mu": "share of Muon's direction",
    "beta1": "decay of the first moment, beta1",
    "rate": "factor on the learning rate",
}


def horizons(found: dict, path: str | os.PathLike):
    """What is gained over going on unchanged, a line per horizon.

    found: {(way, step): {steps ahead: {value: [gain of a seed, ...]}}}.
    """
    ways, points = (list(dict.fromkeys(key[i] for key in found)) for i in range(2))
    size = 4.5 * len(ways), 3.2 * len(points)
    fig, axes = plt.subplots(len(points), len(ways), figsize=size, layout="constrained", squeeze=False)
    for (way, point), rows in found.items():
        ax = axes[points.index(point)][ways.index(way)]
        for i, (steps, row) in enumerate(rows.items()):
            means = [mean(row[value]) for value in row]
            widest = max(map(abs, means)) or 1.0
            errors = [stdev(each) / math.sqrt(len(each)) / widest if len(each) > 1 else 0.0 for each in row.values()]
            shown = [it / widest for it in means]
            label, shade = f"{steps} step{'s' * (steps > 1)} ahead", plt.cm.viridis(i / max(1, len(rows) - 1))
            ax.errorbar(range(len(row)), shown, errors, marker="o", ms=3, color=shade, label=label)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(xticks=range(len(row)), xticklabels=[f"{value:g}" for value in row], xlabel=WAYS_IN_WORDS[way])
        ax.set(ylabel="gain, over its largest", title=f"from step {point}", ylim=(-1.15, 1.15))
    axes[0][0].legend(fontsize=7)
    save(fig, path)


def bound(report: dict, path: str | os.PathLike, caption: str):
    """Figures 1 and 2."""
    fig, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    rho, values, best = report["rho"], report["bound"], report["best_rho"]
    ax.plot(rho, values, lw=1.6, color="black")
    for name, at in (("AVGrad", 0), ("Adam", -1)):
        label = f"{name}: {values[at]:.3f}"
        ax.plot(rho[at], values[at], "o", color=color(name), ms=8, label=label, clip_on=False, zorder=4)
    least = values[rho.index(best)]
    label = rf"least, at $\rho$ = {best:g}: {least:.3f}"
    ax.plot(best, least, "*", color=color("mada"), ms=13, label=label, zorder=4)
    ax.axvline(report["beta2"], color="gray", ls=":", label=rf"$\rho = \beta_2$ = {report['beta2']:g}")
    ax.set(
        xlabel=r"$\rho$  (0: AVGrad, 1: Adam)",
        ylabel="right-hand side of (6)",
        title=f"Theorem 1, T = {report['T']:,}",
        yscale="log",
    )
    plain(ax.yaxis)
    ax.legend()
    save(fig, path, caption)


def convex(records: list[dict], path: str | os.PathLike, caption: str):
    """Figure 9: average regret, x and rho over steps."""
    fig, axes = plt.subplots(1, 3, figsize=(14, 5), layout="constrained")
    shown = ("regret", "average regret"), ("x", "$x_t$"), ("rho", r"$\rho_t$")
    for ax, (key, label) in zip(axes, shown, strict=True):
        steps, values = series(records, key)
        for name, style in styles(list(values[0])).items():
            ax.plot(steps, [value[name] for value in values], lw=1.4, label=pretty(name), **style)
        ax.set(xlabel="step", ylabel=label)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x else "0")
    axes[2].set_yscale("symlog", linthresh=1e-3)
    fig.legend(*axes[0].get_legend_handles_labels(), ncols=5, loc="outside upper center")
    save(fig, path, caption)
