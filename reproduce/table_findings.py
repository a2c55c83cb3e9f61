"""What the tables and the profile say of the paper's claims."""

import math

from reproduce.findings import Finding, listed
from reproduce.outcomes import digits_of, spread, text
from reproduce.published import PUBLISHED, rows_of


def judged(rows: dict, key: str) -> dict[str, list[str]]:
    """{"better", "worse", "no clear difference", "one seed": labels} of the rows against the baseline."""
    found = {"better": [], "worse": [], "no clear difference": [], "one seed": []}
    for label, row in rows.items():
        if it := row["gaps"].get(key):
            found[next(word for word in found if word in it["words"])].append(label)
    return found


def claimed(rows: dict) -> str:
    """The row that a table's claim is about."""
    return next(label for label in rows if label.startswith("MADA"))


def in_common(row: dict, base: dict, key: str) -> list[dict]:
    """The spreads of a row and of the baseline over the seeds that both have."""
    values = [each["ours"][key]["values"] for each in (row, base)]
    both = [seed for seed in values[0] if seed in values[1]]
    return [spread({seed: each[seed] for seed in both}) for each in values]


def losses(it: dict, name: str, lineup: str, **_) -> Finding | None:
    """None where the row that the claim is about has not been run together with Adam."""
    rows, key = it["rows"], it["columns"][0]
    digits, label = digits_of(key), claimed(rows)
    row, base, numbers = rows[label], rows["Adam"], rows_of(name, lineup)
    if not row["gaps"][key]:
        return None
    gap, groups, (ours, adams) = row["gaps"][key], judged(rows, key), in_common(row, base, key)
    sentences = [
        (
            f"At {it['rates']} learning rate {label} ends at {text(ours, digits)} and Adam at "
            f"{text(adams, digits)}: {gap['words']}."
        ),
        (
            f"Better than Adam: {listed(groups['better'])}; worse: {listed(groups['worse'])}; "
            f"no clear difference: {listed(groups['no clear difference'])}"
            + f"; one seed only: {listed(groups['one seed'])}" * bool(groups["one seed"])
            + "."
        ),
    ]
    if key == "accuracy":
        sentences += accuracies(rows, numbers)
    elif len(row["grid"]) > 1 and row["tuned"]:
        sentences.append(grid_of_rates(label, rows))
    if it.get("ngrams"):
        sentences.append(counted(it["ngrams"], base["ours"][key]["mean"]))
    return Finding(
        f"{label} {numbers[label][0]:g}, Adam {numbers['Adam'][0]:g}",
        f"{label} {ours['mean']:.{digits}f}, Adam {adams['mean']:.{digits}f}: {gap['words']}",
        {f"{label} is better than Adam in {key} by more than two paired standard errors": label in groups["better"]},
        sentences,
    )


def counted(losses: list[float], adams: float) -> str:
    """Where Adam's loss lies among those of counted n-grams, and what that means."""
    words = listed([f"{loss:.3f}" for loss in losses])
    words = f"Counted unigrams, bigrams and trigrams of this text have losses of {words}: "
    if adams > losses[1] - 0.05:
        return words + "what is compared here are runs that have learned little more than which symbol follows which."
    return words + f"Adam is {losses[1] - adams:.2f} below bigrams."


def grid_of_rates(label: str, rows: dict) -> str:
    """What other learning rates change."""
    row, base = rows[label], rows["Adam"]
    factor, own = f"{base['best_factor']:g}", f"{row['best_factor']:g}"
    there, adams = row["grid"].get(factor, {}).get("values", {}), base["grid"][factor]["values"]
    there = {seed: value for seed, value in there.items() if seed in adams and math.isfinite(value)}
    words = f"Adam is best at x{factor} ({text(base['grid'][factor], 3)})"
    for at, it in base["grid"].items():
        if it["n"] < base["grid"][factor]["n"] and it["mean"] and it["mean"] < base["grid"][factor]["mean"]:
            words += f", but not all seeds of x{at} have been run, and those that have are lower ({it['mean']:.3f})"
    if there and factor != own:
        ends = listed([f"{value:.3f}" for value in there.values()])
        pairs = listed([f"{value - adams[seed]:+.3f}" for seed, value in there.items()])
        words += f"; there {label}'s seeds end at {ends}, which is {pairs} compared with Adam's, "
        words += f"and the worst of them makes x{own} its best rate"
    every = {
        (other, at): min(filter(math.isfinite, it["values"].values()))
        for other, each in rows.items()
        for at, it in each["grid"].items()
        if it["mean"] is not None
    }
    least = min(every, key=every.get)
    return (
        f"{words}: {row['tuned']['words']}, each at its best rate. The lowest run of all is {least[0]}'s at "
        f"x{least[1]} "
        f"({every[least]:.3f})."
    )


def accuracies(rows: dict, numbers: dict) -> list[str]:
    """Table 5: the last epoch against the best one, and the distance to the paper, where all its rows have been run."""
    last = {label: rows[label]["ours"].get("accuracy", {}).get("mean") for label in numbers}
    if None in last.values():
        return []
    best = {label: rows[label]["ours"]["best epoch"]["mean"] for label in last}
    under = {label: numbers[label][0] - value for label, value in last.items()}
    gain = [best[label] - last[label] for label in last]
    sgd = "Momentum SGD"
    rank = {
        label: sorted(last, key=it.get, reverse=True).index(sgd) + 1 for label, it in (("last", last), ("best", best))
    }
    augmented, plain = (
        rows.get("Adam (augmented)", {}).get("ours", {}).get("accuracy"),
        rows["Adam"]["ours"]["accuracy"],
    )
    crops = [
        f"Random crops and mirror images take Adam to {value:.2f} after as many epochs, where it has "
        f"{plain['values'][seed]:.2f} without in the same seed."
        for seed, value in (augmented or {"values": {}})["values"].items()
    ]
    return [
        "Last accuracies are under the paper's by "
        + listed([f"{value:.1f} ({label})" for label, value in under.items()])
        + f" points, best epochs by {min(numbers[x][0] - best[x] for x in best):.1f} to "
        f"{max(numbers[x][0] - best[x] for x in best):.1f}: stopping early explains {min(gain):.1f} to "
        f"{max(gain):.1f} points, "
        f"and takes {sgd} from place {rank['last']} to place {rank['best']} of {len(last)}.",
        (
            "A best epoch here looks at the test images (`--held_out=5000` would choose it on training images, at "
            "the price of training on fewer). The images are JPEG copies of CIFAR-10 with halved chroma, which may be "
            "what is left of the distance: without lossless ones that cannot be settled."
        ),
        *crops,
    ]


def perplexities(it: dict, name: str, lineup: str, **_) -> Finding | None:
    """None where no column has been taken for the row that the claim is about."""
    rows, numbers = it["rows"], PUBLISHED[name]["rows"]
    label = claimed(rows)
    columns = [column for column in it["columns"] if rows[label]["gaps"][column]]
    if not columns:
        return None
    row, key = rows[label], columns[0]
    ours, adams = in_common(row, rows["Adam"], key)
    groups = {column: judged(rows, column) for column in columns}
    ahead = [other for other in rows if all(other in groups[column]["better"] for column in columns)]
    return Finding(
        f"{label} {numbers[label][0]:g}"
        + (f", Adam {numbers['Adam'][0]:g}" if "Adam" in numbers else "")
        + f" ({key})",
        f"{label} {ours['mean']:.4f}, Adam {adams['mean']:.4f} ({key}): {row['gaps'][key]['words']}",
        {
            f"{label} is below Adam in {column} by more than two paired standard errors": label in it["better"]
            for column, it in groups.items()
        },
        [
            f"{label} minus Adam is " + listed([f"{row['gaps'][c]['words']} in {c}" for c in columns]) + ".",
            (
                f"Better than Adam in every column: {listed(ahead)}; not clearly different from it in {key}: "
                f"{listed(groups[key]['no clear difference'])}."
            ),
            "Perplexities are of other units than the paper's, and are compared with each other only.",
        ],
    )


def profile(it: dict, name: str, **_) -> Finding | None:
    """None where a row has not been measured, at the small or at the large batch."""
    found, theirs = it["results"], PUBLISHED[name]["rows"]
    large = next((label for label in found if label.startswith("MADA, ")), "").partition(", ")[2]
    if not all({row, f"{row}, {large}"} <= found.keys() for row in ("Adam", "MADA without Lion", "MADA")):
        return None

    def ratio(rows, batch, i, row="MADA"):
        a, b = (rows[f"{label}, {batch}" if batch else label] for label in (row, "Adam"))
        return a[i] / b[i]

    ours = {label: (one["peak_gb"], one["seconds"]) for label, one in found.items()}
    time, time_large = ratio(ours, "", 1), ratio(ours, large, 1)
    paper, paper_large = ratio(theirs, "", 1), ratio(theirs, "batch of 3,840 sequences", 1)
    less = ours["Adam"][0] < ours["MADA without Lion"][0] < ours["MADA"][0]
    return Finding(
        f"{paper:.2f} times Adam's time, {ratio(theirs, '', 0):.2f} times its memory; {paper_large:.2f} times at 8 "
        f"times the batch",
        f"{time:.2f} times Adam's time, {ratio(ours, '', 0):.2f} times its memory; {time_large:.2f} times at {large}",
        {
            "time: Adam, MADA without Lion, MADA": ours["Adam"][1] < ours["MADA without Lion"][1] < ours["MADA"][1],
            "memory: Adam, MADA without Lion, MADA": less,
            "relatively less time at the larger batch": time_large < time,
        },
        [
            (
                f"MADA takes {time:.2f} times Adam's time per iteration, without Lion "
                f"{ratio(ours, '', 1, 'MADA without Lion'):.2f} times; at "
                f"{large} {time_large:.2f} and {ratio(ours, large, 1, 'MADA without Lion'):.2f} times."
            ),
            (
                f"It needs {ours['MADA'][0] - ours['Adam'][0]:.2f} GB more than Adam for 124M parameters, which is "
                f"{(ours['MADA'][0] - ours['Adam'][0]) / 0.1244:.0f} bytes each (expected: 28 of MADA's state less "
                f"8 of Adam's)."
            ),
            (
                f"{found['MADA']['steps']} steps each, on {found['MADA']['device']}: this shows the shape, and says "
                f"nothing of a GPU."
            ),
        ],
    )
