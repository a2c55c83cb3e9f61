"""Figures from what results/ holds, beside the authors' logs where there are any; called as the functions of show.py.

Legible without the text: axes with units, seeds and scale in the caption.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from plot import SYMBOLS, plt, series
from show import PAPER, PUBLISHED, ROOT, best_of, conditions, first_line


def save(fig, folder, caption):
    fig.text(0.01, 0.005, caption, fontsize=7, va="bottom", wrap=True)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    fig.savefig(folder / "figure.png", dpi=150)
    plt.close(fig)


def authors(name):
    """The authors' log, thinned -> {column: [numbers]}."""
    rows = list(csv.DictReader(open(PAPER / f"authors_owt_{name}.csv")))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def curves(name, scale, folder, runs, rest, draw, workers):
    """Figures 3 and 4: a loss over steps, ours at the learning rate that is best for each; the authors' where they are."""
    key, *labels = rest
    contest, ended = next(iter(runs.items()))
    if not ended:
        return None
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    summary = {}
    for label in (label for label in labels if label in ended):
        factor = best_of(ended[label], lambda run: run.value("val_loss"), "lower")
        drawn = [series(run.records, key) for run in ended[label][factor]]
        steps, length = drawn[0][0], min(len(values) for _, values in drawn)
        middle = [mean(values[i] for _, values in drawn) for i in range(length)]
        axes[0].plot(steps[:length], middle, lw=1.2, label=f"{label}, lr x{factor:g}, n = {len(drawn)}")
        summary[label] = {"factor": factor, "n": len(drawn), "last": middle[-1]}
    for label, log in (("Adam", "adam"), ("MADA", "mada_rho0_beta3_0.9"), ("MADA (rho_0 = 0)", "mada_rho0_beta3_0")):
        theirs = authors(log)
        axes[1].plot(theirs["iteration"][10:], theirs[key][10:], lw=1.2, label=label)
    for ax, title in zip(axes, (f"ours ({scale})", "the authors' logs (GPT-2 125M)"), strict=True):
        ax.set(title=title, xlabel="step", ylabel=f"{key.replace('_', ' ')} (nats per token)")
        ax.legend(fontsize=7)
        ax.grid(alpha=0.3)
    save(fig, folder, f"Mean over n seeds. {first_line([contest], scale)}")
    return {"claim": PUBLISHED[name]["claim"], "results": summary, "conditions": conditions(ended)}


def coefficients(name, scale, folder, runs, rest, draw, workers):
    """Figures 5 to 7: the learned coefficients over training, beside the authors'."""
    contest, ended = next(iter(runs.items()))
    label, theirs = rest[0], authors(rest[1])
    drawn = [label] + [other for other in ended if other == f"{label} (rule=authors)"]
    if label not in ended:
        return None
    fig, axes = plt.subplots(1, len(drawn) + 1, figsize=(5 * (len(drawn) + 1), 4.6), sharey=True)
    summary = {}
    for ax, which in zip(axes, drawn, strict=False):
        for run in ended[which][1]:
            steps, values = series(run.records, "coefficients")
            for i, key in enumerate(values[0]):
                ax.plot(steps, [value[key] for value in values], color=f"C{i}", lw=1,
                        label=SYMBOLS[key] if run is ended[which][1][0] else None)
        ax.set_title(f"ours, {which}, {len(ended[which][1])} seeds", fontsize=10)
        summary[which] = {run.seed: run.records[-1]["coefficients"] for run in ended[which][1]}
    for i, key in enumerate(SYMBOLS):
        axes[-1].plot(theirs["iteration"], theirs[key], color=f"C{i}", lw=1)
    axes[-1].set_title("the authors' log", fontsize=10)
    axes[0].legend(ncols=2, fontsize=8)
    for ax in axes:
        ax.set(xlabel="step")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("coefficient")
    save(fig, folder, first_line([contest], scale))
    return {"claim": PUBLISHED[name]["claim"], "results": summary,
            "authors_last": {key: theirs[key][-1] for key in SYMBOLS}, "conditions": conditions({label: ended[label]})}


def bound(name, scale, folder, runs, rest, draw, workers):
    """Figures 1 and 2, and Proposition 1: scripts/theory.py."""
    path = folder / "theory.json"
    if not path.exists():
        if draw:
            return None
        import theory
        path.write_text(json.dumps(theory.report()) + "\n")
    report = json.loads(path.read_text())
    figure = report["figures"][rest[0]]
    fig, ax = plt.subplots(figsize=(6, 4.2))
    ax.plot(figure["rho"], figure["bound"], lw=1.4)
    ax.axvline(report["beta2"], color="gray", ls=":", label=r"$\rho = \beta_2$")
    ax.set(xlabel=r"$\rho$  (0: AVGrad, 1: Adam)", ylabel="right-hand side of (6)", title=f"Theorem 1, T = {int(rest[0]):,}")
    ax.legend()
    ax.grid(alpha=0.3)
    save(fig, folder, f"beta2 = {report['beta2']}, constants {report['constants']}; deterministic.")
    return {"claim": PUBLISHED[name]["claim"],
            "results": {"best_rho": figure["best_rho"], "bound at AVGrad, beta2, Adam":
                        [figure["bound"][0], min(figure["bound"]), figure["bound"][-1]]},
            "proposition1: largest growth of the step size": report["proposition1"], "note": "full scale at every --scale"}


def convex(name, scale, folder, runs, rest, draw, workers):
    """Figure 9: average regret, x and rho over steps."""
    ended = runs["convex"].get("all")
    if not ended:
        return None
    records, header = ended[1][0].records, ended[1][0].header
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.6))
    for ax, (key, label) in zip(axes, (("regret", "average regret"), ("x", "$x_t$"), ("rho", r"$\rho_t$")), strict=True):
        steps, values = series(records, key)
        for optimizer in values[0]:
            ax.plot(steps, [value[optimizer] for value in values], lw=1.2, label=optimizer)
        ax.set(xlabel="step", ylabel=label)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(fig, folder, f"Deterministic; learning rate {header['config']['learning_rate']:g}, {header['config']['schedule']}. "
                      f"{first_line(['convex'], scale)}")
    return {"claim": PUBLISHED[name]["claim"], "results": {key: records[-1][key] for key in ("x", "regret", "rho", "iter")},
            "settings": header["config"], "conditions": conditions(runs["convex"])}


def grid(name, scale, folder, runs, rest, draw, workers):
    """Figure 8: scripts/sweep.py, and the same picture of the authors' cells."""
    import sweep
    path = folder / "summary.csv"
    if not draw:
        command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(ROOT / rest[scale]),
                   "--out", str(ROOT / "out" / "sweeps" / Path(rest[scale]).stem)]
        subprocess.run(command + ([] if workers is None else [f"--workers={workers}"]), check=True)
        path.write_text((Path(command[-1]) / "summary.csv").read_text())
    if not path.exists():
        return None
    note = {"smoke": "smoke", "cpu": "reduced: 0.1M parameters, 5 x 5 cells, 700 steps, one seed"}.get(scale, "full")
    ours = sweep.read(path)
    theirs = [row | {column: float(row[column]) for column in row if column != "optimizer"}
              for row in csv.DictReader(open(PAPER / "authors_shakespeare_grid.csv"))]
    sweep.draw(ours, str(folder / "figure.png"), f"ours ({note})")
    sweep.draw(theirs, str(folder / "authors.png"), "the authors' cells")
    summary = {}
    for who, cells in (("ours", ours), ("authors", theirs)):
        at = {}
        for row in cells:
            cell = at.setdefault((row["beta1_0"], row["beta2_0"]), {})
            cell.setdefault(row["optimizer"], []).append(row["final_train_loss"])
        pairs = [{key: mean(losses) for key, losses in cell.items()} for cell in at.values()]
        summary[who] = {"cells": len(pairs)} | {
            f"share of cells where MADA is below {other}": mean(float(cell["mada"] < cell[other]) for cell in pairs)
            for other in ("adam", "hyperadam")} | {
            f"mean loss of {key}": mean(cell[key] for cell in pairs) for key in ("adam", "hyperadam", "mada")}
    return {"claim": PUBLISHED[name]["claim"], "note": note, "results": summary}
