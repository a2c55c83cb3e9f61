"""Figures from what results/ holds, beside the authors' logs where there are any; called as the functions of show.py.

Legible without the text: axes with units, seeds and scale in the caption.
"""

import csv
import json
import math
from pathlib import Path
from statistics import mean, median

from plot import SYMBOLS, plt, series
from show import PAPER, PUBLISHED, ROOT, best_of, conditions, first_line, headers, spread, text

import metrics
from settings import UserError
from workers import errors, execute


def save(fig, folder, caption, bottom=0.07):
    """bottom: the share of the height that is left for the caption, and a legend above it."""
    fig.text(0.01, 0.005, caption, fontsize=7, va="bottom", wrap=True)
    fig.tight_layout(rect=(0, bottom, 1, 1))
    fig.savefig(folder / "figure.png", dpi=150)
    plt.close(fig)


def authors(name):
    """The authors' log, thinned -> {column: [numbers]}."""
    rows = list(csv.DictReader(open(PAPER / f"authors_owt_{name}.csv")))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def smooth(values, width=5):
    """A running mean over the last `width` logged values."""
    return [mean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]


def curves(name, scale, folder, runs, rest, **_):
    """Figures 3 and 4: a loss over steps, ours at the learning rate that is best for each; the authors' where they are."""
    key, *labels = rest
    ((contest, ended),) = runs.items()
    if not ended:
        return None
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    summary = {}
    for label in (label for label in labels if label in ended):
        factor = best_of(ended[label], lambda run: run.value("val_loss"), "lower")
        whole = [run for run in ended[label].get(factor, []) if not run.header["diverged"]]
        if not whole:
            continue
        drawn = [series(run.records, key) for run in whole]
        steps, middle = drawn[0][0], [mean(values) for values in zip(*(values for _, values in drawn), strict=True)]
        first = next(i for i, step in enumerate(steps) if step >= steps[-1] / 5)  # before that all fall alike
        axes[0].plot(
            steps[first:],
            smooth(middle)[first:] if key == "train_loss" else middle[first:],
            lw=1.2,
            label=f"{label}, lr x{factor:g}, n = {len(whole)}",
        )
        summary[label] = {
            "factor": factor,
            "n": len(whole),
            "last": spread({run.seed: run.value(key) for run in whole}),
        }
    if not summary:
        return None
    theirs = {
        label: authors(log)
        for label, log in (("Adam", "adam"), ("MADA", "mada_rho0_beta3_0.9"), ("MADA (rho_0 = 0)", "mada_rho0_beta3_0"))
    }
    for label, log in theirs.items():
        axes[1].plot(log["iteration"][10:], log[key][10:], lw=1.2, label=label)
    unit = "byte" if any(header["data"]["tokenizer"] == "bytes" for header in headers(ended)) else "token"
    for ax, title, of in zip(axes, (f"ours ({scale})", "the authors' logs (GPT-2 125M)"), (unit, "token"), strict=True):
        ax.set(title=title, xlabel="step", ylabel=f"{key.replace('_', ' ')} (nats per {of})")
        ax.legend(fontsize=7)
        ax.grid(alpha=0.3)
    smoothed = ", and over 5 logged steps" * (key == "train_loss")
    save(
        fig, folder, f"Mean over n seeds{smoothed}, each row at its best learning rate. {first_line([contest], scale)}"
    )
    return PUBLISHED[name] | {
        "results": summary,
        "paper": [f"{label} {log[key][-1]:.4f}" for label, log in theirs.items()],
        "ours": [f"{label} {text(it['last'], 4)}" for label, it in summary.items()],
        "n": max(it["n"] for it in summary.values()),
        "conditions": conditions(headers({label: ended[label] for label in summary})),
    }


def coefficients(name, scale, folder, runs, rest, **_):
    """Figures 5 to 7: the learned coefficients over training, beside the authors'."""
    ((contest, ended),) = runs.items()
    label, theirs = rest[0], authors(rest[1])
    drawn = [which for which in (label, f"{label} (rule=authors)") if 1 in ended.get(which, {})]
    if not drawn:
        return None
    fig, axes = plt.subplots(1, len(drawn) + 1, figsize=(5 * (len(drawn) + 1), 4.6), sharey=True)
    summary = {}
    for ax, which in zip(axes, drawn, strict=False):
        for run in ended[which][1]:
            steps, values = series(run.records, "coefficients")
            for i, key in enumerate(SYMBOLS):
                ax.plot(
                    steps,
                    [value[key] for value in values],
                    color=f"C{i}",
                    lw=1,
                    label=SYMBOLS[key] if run is ended[which][1][0] else None,
                )
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
    save(fig, folder, f"One line per seed, at the paper's learning rate. {first_line([contest], scale)}")
    last = {key: theirs[key][-1] for key in SYMBOLS}
    ends = {key: spread({seed: end[key] for seed, end in summary[drawn[0]].items()}) for key in SYMBOLS}
    return PUBLISHED[name] | {
        "results": summary,
        "authors_last": last,
        "n": len(summary[drawn[0]]),
        "paper": ["at the end"] + [f"{key} {value:.2f}" for key, value in last.items()],
        "ours": ["at the end"] + [f"{key} {text(it, 2)}" for key, it in ends.items()],
        "conditions": conditions(headers({which: {1: ended[which][1]} for which in drawn})),
    }


def bound(name, scale, folder, rest, draw, **_):
    """Figures 1 and 2, and Proposition 1: scripts/theory.py."""
    path = folder / "theory.json"
    if not draw:
        import theory

        path.write_text(json.dumps(theory.report(*rest)) + "\n")
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    fig, ax = plt.subplots(figsize=(6, 4.2))
    ax.plot(report["rho"], report["bound"], lw=1.4)
    ax.axvline(report["beta2"], color="gray", ls=":", label=r"$\rho = \beta_2$")
    ax.set(
        xlabel=r"$\rho$  (0: AVGrad, 1: Adam)", ylabel="right-hand side of (6)", title=f"Theorem 1, T = {report['T']:,}"
    )
    ax.legend()
    ax.grid(alpha=0.3)
    save(fig, folder, f"beta2 = {report['beta2']}, constants {report['constants']}; deterministic.")
    avgrad, least, adam = report["bound"][0], min(report["bound"]), report["bound"][-1]
    return PUBLISHED[name] | {
        "results": {"best_rho": report["best_rho"], "bound at AVGrad, best rho, Adam": [avgrad, least, adam]},
        "proposition1: largest growth of the step size": report["proposition1"],
        "n": "deterministic",
        "ours": [f"least at rho = {report['best_rho']:g} ({least:.3f})", f"AVGrad {avgrad:.3f}", f"Adam {adam:.3f}"],
        "conditions": conditions([report]),
    }


def convex(name, scale, folder, runs, **_):
    """Figure 9: average regret, x and rho over steps."""
    ended = runs["convex"].get("all")
    if not ended:
        return None
    records, header = ended[1][0].records, ended[1][0].header
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.6))
    for ax, (key, label) in zip(
        axes, (("regret", "average regret"), ("x", "$x_t$"), ("rho", r"$\rho_t$")), strict=True
    ):
        steps, values = series(records, key)
        for optimizer in values[0]:
            ax.plot(steps, [value[optimizer] for value in values], lw=1.2, label=optimizer)
        ax.set(xlabel="step", ylabel=label)
        ax.grid(alpha=0.3)
    fig.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 0.04)
    )
    cfg = header["config"]
    other = [f"{name}: {it['learning_rate']:g}" for name, it in cfg["optimizers"].items() if "learning_rate" in it]
    save(
        fig,
        folder,
        f"Deterministic; {cfg['schedule']} learning rate {'; '.join([format(cfg['learning_rate'], 'g'), *other])}. "
        f"{first_line(['convex'], scale)}",
        0.16,
    )
    last = records[-1]
    return PUBLISHED[name] | {
        "results": {key: last[key] for key in ("x", "regret", "rho", "iter")},
        "settings": cfg,
        "ours": [
            f"{optimizer}: x = {last['x'][optimizer]:.2f}, rho = {last['rho'][optimizer]:.3f}"
            for optimizer in last["x"]
            if optimizer != "AMSGrad"
        ],
        "n": "deterministic",
        "conditions": conditions([header]),
    }


def grid(name, scale, folder, rest, draw, workers, seeds, **_):
    """Figure 8: the cells of a sweep file, once per seed, and the same picture of the authors' cells."""
    import sweep

    note, file, default_seeds = rest[scale]
    before = folder / "summary.json"
    if draw:
        if not before.exists():
            return None
        it = json.loads(before.read_text())
        under, seeds = it["conditions"], range(1337, 1337 + it["n"])
    else:
        seeds = range(1337, 1337 + (seeds or default_seeds))
        out = ROOT / "out" / "sweeps" / Path(file).stem
        cells = {seed: sweep.cells(str(ROOT / file), [f"--seed={seed}"])[0] for seed in seeds}
        states = execute(
            [cell for every in cells.values() for cell in every], out, workers, True, keep_checkpoints=False
        )
        if failed := errors(states):
            raise UserError(
                f"{len(failed)} cells failed: {'; '.join(dict.fromkeys(failed))}; the same command tries them again ({out}/ID/log.txt)"
            )
        for seed, every in cells.items():
            sweep.write(list(sweep.rows(every, out)), folder / f"cells-seed{seed}.csv")
        under = conditions([metrics.read(out / cell.id)[0] for every in cells.values() for cell in every])
    ours = [sweep.read(folder / f"cells-seed{seed}.csv") for seed in seeds]
    theirs = sweep.read(PAPER / "authors_shakespeare_grid.csv")
    sweep.draw(
        [row for table in ours for row in table],
        str(folder / "figure.png"),
        f"ours, mean over {len(ours)} seed{'s' * (len(ours) > 1)}. {note or 'Full scale.'}",
    )
    sweep.draw(theirs, str(folder / "authors.png"), "the authors' cells, one seed")
    summary = {"ours": [shares(table) for table in ours], "authors": shares(theirs)}
    return PUBLISHED[name] | {
        "note": note,
        "results": summary,
        "n": len(ours),
        "conditions": under,
        "paper": [f"{what} {value:.3g}" for what, value in summary["authors"].items()],
        "ours": [
            f"{what} {text(spread(dict(enumerate(it[what] for it in summary['ours']))), 3)}"
            for what in summary["authors"]
            if what != "cells"
        ],
    }


def shares(table):
    """How MADA's final training losses lie to the others' over the cells of one seed; a diverged cell's is infinite."""
    cells = {}
    for row in table:
        loss = row["final_train_loss"]
        cells.setdefault((row["beta1_0"], row["beta2_0"]), {})[row["optimizer"]] = (
            loss if math.isfinite(loss) else math.inf
        )
    cells = [cell for cell in cells.values() if len(cell) == 3]
    found = {
        f"share of cells where MADA is below {other}": mean(float(cell["mada"] < cell[other]) for cell in cells)
        for other in ("adam", "hyperadam")
    }
    return (
        {"cells": len(cells)}
        | found
        | {f"median of {key}": median(cell[key] for cell in cells) for key in ("adam", "hyperadam", "mada")}
        | {f"best of {key}": min(cell[key] for cell in cells) for key in ("adam", "hyperadam", "mada")}
    )
