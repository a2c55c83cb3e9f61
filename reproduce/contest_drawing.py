"""The contest's pictures. Values far above the rest are drawn at the upper edge, as triangles."""

import itertools
import os
from statistics import mean

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from reproduce.drawing import LINES, SYMBOLS, band, color, plt, pretty, save, steady, styles

TASK_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#777777")
MARKERS = "osDP*Xhp"  # no triangles: those are off the picture


def edge(values: list[float], higher: bool) -> tuple[float, bool]:
    """The value at which the picture ends, and whether its axis is logarithmic. Three quarters of the values are within
    half that distance from the best."""
    good = sorted(values, reverse=higher)
    best, most = good[0], good[3 * len(good) // 4]
    if higher or best <= 0 or most < 2 * best:
        return 2 * most - best, False
    return best * (most / best) ** 2, True


def line(ax, xs: list, seeds: list[list[float]], worst: float, higher: bool, joined: bool, **style):
    """Means over the seeds at xs, and the range of the seeds: a line and a band, or points with bars."""
    end = max if higher else min
    middle = [end(mean(each), worst) for each in seeds]
    low, high = ([end(pick(each), worst) for each in seeds] for pick in (min, max))
    ax.plot(xs, middle, lw=1.6 * joined, **{"marker": ".", "ms": 6} | style)
    if joined:
        ax.fill_between(xs, low, high, color=style["color"], alpha=0.12, lw=0)
    else:
        ax.vlines(xs, low, high, color=style["color"], alpha=0.5, lw=1.5)
    off = [(x, y) for x, y in zip(xs, middle, strict=True) if y == worst]
    if off:
        ax.plot(*zip(*off, strict=True), "v" if higher else "^", color=style["color"], ms=7, zorder=5)


def panel(ax, xlabel: str, rows: dict, worst: float, higher: bool, look: dict, number: bool = True):
    """rows: {row: {x: [value of a seed, ...]}}; number: x is a number, on a logarithmic axis, or else a word."""
    places = list(dict.fromkeys(x for at in rows.values() for x in at))
    for i, (row, at) in enumerate(rows.items()):
        shift = 0 if number else 0.6 * ((i + 0.5) / len(rows) - 0.5)
        each = sorted((x if number else places.index(x) + shift, seeds) for x, seeds in at.items())
        line(ax, *zip(*each, strict=True), worst, higher, number, label=pretty(row), **look[row])
    if number:
        ax.set_xscale("log")
        ax.set_xticks(sorted(places), [f"{x:g}" for x in sorted(places)])
        ax.minorticks_off()
    else:
        ax.set_xticks(range(len(places)), places)
    ax.set_xlabel(xlabel)


def limits(ax, panels: list[dict], higher: bool) -> float:
    """Set the scale of the y axis for the panels' rows, and return where the picture ends."""
    every = [value for rows in panels for at in rows.values() for some in at.values() for value in some]
    worst, logarithmic = edge(every, higher)
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    return worst


def task(panels: dict, path: str | os.PathLike, title: str, unit: str, higher: bool, caption: str):
    """panels: {(what is on the x axis, whether it is a number, as in panel()): rows as in panel()}."""
    size = 4.7 * len(panels), 4.6
    fig, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    look = styles(list(dict.fromkeys(row for rows in panels.values() for row in rows)))
    for style, marker in zip(look.values(), itertools.cycle(MARKERS)):
        style |= {"marker": marker, "ms": 4}
    worst = limits(axes[0, 0], list(panels.values()), higher)
    for ax, ((xlabel, number), rows) in zip(axes[0], panels.items(), strict=True):
        panel(ax, xlabel, rows, worst, higher, look, number)
    axes[0, 0].set_ylabel(unit)
    handles = {}
    for ax in axes[0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)  # of the first panel, whose lines tell more than points
    columns = min(5, 3 * len(panels) - 2)
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, title=title)
    save(fig, path, caption)


def front(panels: dict, moved: dict, path: str | os.PathLike, unit: str, higher: bool, caption: str):
    """The picture of the front page.

    panels: {title: rows over learning rates}; moved: {coefficient: (% of the run, seeds)}.
    """
    fig, axes = plt.subplots(1, len(panels) + 1, figsize=(4.1 * (len(panels) + 1), 3.7), layout="constrained")
    worst = limits(axes[0], list(panels.values()), higher)
    for ax, (title, rows) in zip(axes, panels.items(), strict=False):
        ax.sharey(axes[0])
        panel(ax, "learning rate", rows, worst, higher, styles(list(rows)))
        ax.set_title(title)
        ax.legend()
    axes[0].set_ylabel(unit)
    for (name, (at, seeds)), shade in zip(moved.items(), TASK_COLORS, strict=False):
        band(axes[-1], at, seeds, color=shade, label=SYMBOLS[name])
    axes[-1].set(xlabel="% of the run", ylabel="coefficient", ylim=(-0.03, 1.03))
    axes[-1].set_title("what MADA learns meanwhile, from (0.9, 0.95)")
    axes[-1].legend(ncols=3)
    save(fig, path, caption)


def against(points: dict, path: str | os.PathLike, caption: str):
    """A point per cell: how far MADA ends from the task's best, over how far AdamW does.

    points: {task: [(x, y), ...]}, both a distance to the best mean as a share of it; beyond 10 they are drawn at 10.
    """
    fig, ax = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
    low, high = 1e-3, 10
    for (name, each), shade, marker in zip(points.items(), TASK_COLORS, MARKERS, strict=False):
        xs, ys = np.clip(np.array(each), low, high).T
        ax.plot(xs, ys, marker, color=shade, ms=5, alpha=0.55, mew=0, label=f"{name} ({len(each)})", clip_on=False)
    ax.plot([low, high], [low, high], color="black", lw=0.8)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ticks = (1e-3, 1e-2, 1e-1, 1, 10)
    ax.set_xticks(ticks, ["0.1 %\nor less", "1 %", "10 %", "100 %", "1000 %\nor more"])
    ax.set_yticks(ticks, ["0.1 %", "1 %", "10 %", "100 %", "1000 %"])
    ax.set(xlabel="AdamW: how far above the best mean of the task", ylabel="MADA: how far above it")
    ax.text(0.97, 0.03, "MADA is better", transform=ax.transAxes, ha="right", color=color("MADA"))
    ax.text(0.03, 0.97, "AdamW is better", transform=ax.transAxes, va="top", color=color("adam"))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(fig, path, caption)


def paths(panels: dict, path: str | os.PathLike, caption: str):
    """Learned coefficients over time, a row of panels per title.

    panels: {title: {start: {coefficient: (% of the run, [values of a seed, ...])}}}.
    """
    shape, size = (len(panels), len(SYMBOLS)), (14, 0.8 + 2.3 * len(panels))
    fig, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False, sharex=True)
    every = dict.fromkeys(start for starts in panels.values() for start in starts)
    looks = zip(every, TASK_COLORS, LINES, strict=False)
    look = {start: {"color": shade, "linestyle": dash} for start, shade, dash in looks}
    for row, (title, starts) in zip(axes, panels.items(), strict=True):
        for ax, (name, symbol) in zip(row, SYMBOLS.items(), strict=True):
            for start, found in starts.items():
                band(ax, *found[name], label=start, **look[start])
            ax.set_title(symbol)
            steady(ax)
        row[0].set_ylabel(title)
    for ax in axes[-1]:
        ax.set_xlabel("% of the run")
    legends = [ax.get_legend_handles_labels() for ax in axes[:, 0]]
    handles = {label: handle for legend in legends for handle, label in zip(*legend, strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    save(fig, path, caption)


def bars(panels: dict, path: str | os.PathLike, xlabel: str, caption: str):
    """A mean with two standard errors per row, a ring where there is one seed; the tasks side by side.

    panels: {task: {row: (mean, error)}}.
    """
    labels = list(dict.fromkeys(row for rows in panels.values() for row in rows))[::-1]
    size = 3.2 + 3.6 * len(panels), 1.2 + 0.26 * len(labels)
    fig, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for place, label in enumerate(labels):
            if label in rows:
                (middle, error), shade = rows[label], color(label)
                fill = "none" if error is None else shade
                ax.errorbar(middle, place, xerr=error and 2 * error, fmt="o", color=shade, mfc=fill, ms=4, capsize=3)
        ax.axvline(0, color="black", lw=0.8)
        ax.set(title=title, xlabel=xlabel, ylim=(-0.6, len(labels) - 0.4))
        ax.set_yticks(range(len(labels)), labels)
    save(fig, path, caption)
