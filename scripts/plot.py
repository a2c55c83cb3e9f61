"""Draw a run from its metrics.jsonl: losses, and the optimizer's coefficients where it learns any; or a figure of the paper.

python scripts/plot.py OUT_DIR                # writes OUT_DIR/curves.png
python scripts/plot.py results/fig5/cpu       # again from the metrics in results/: reproduce.py fig5 --scale cpu --draw
"""

import argparse
import json
import os
import sys
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import metrics
from settings import UserError, one_line_errors

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


def series(records, key):
    """The steps at which `key` was logged, and its values there."""
    pairs = [(record["iter"], record[key]) for record in records if key in record]
    return [step for step, _ in pairs], [value for _, value in pairs]


def draw(header, records, path):
    """One picture of a run: losses above, coefficients below."""
    config = header["config"]
    steps, coefficients = series(records, "coefficients")
    fig, axes = plt.subplots(1 + bool(steps), 1, figsize=(7, 3.5 * (1 + bool(steps))), sharex=True, squeeze=False)
    losses = axes[0, 0]
    for key, style in (("train_loss", "-"), ("val_loss", "o-")):
        losses.plot(*series(records, key), style, label=key.replace("_", " "), lw=1, ms=4)
    losses.set_ylabel("loss (nats per token)")
    losses.set_title(
        f"{config['optimizer']} on {config['dataset']}: {header['parameters'] / 1e6:.1f}M parameters, "
        f"seed {config['seed']}",
        fontsize=10,
    )
    losses.legend()
    if steps:
        for name in coefficients[0]:
            axes[1, 0].plot(steps, [values[name] for values in coefficients], label=SYMBOLS.get(name, name), lw=1.2)
        axes[1, 0].set_ylabel("coefficient")
        axes[1, 0].legend(ncols=2)
    axes[-1, 0].set_xlabel("step")
    for ax in axes[:, 0]:
        ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="OUT_DIR", help="folder of a run, with its metrics.jsonl, or one of results/")
    out_dir = parser.parse_args().folder
    if (summary := Path(out_dir, "summary.json")).exists():
        from reproduce import reproduce

        it = json.loads(summary.read_text())
        return reproduce(it["name"], it["scale"], draw=True)
    try:
        header, records = metrics.read(out_dir)
    except OSError:
        raise UserError(f"{out_dir}: there is no {metrics.FILE}; name the out_dir of a run of train.py") from None
    except ValueError:
        raise UserError(f"{out_dir}: there is no run in its {metrics.FILE}") from None
    path = os.path.join(out_dir, "curves.png")
    draw(header, records, path)
    print(path)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
