"""What the figures and the proposition say of the paper's claims."""

import math
from statistics import mean

from reproduce.experiments import NAMES
from reproduce.findings import Finding, listed
from reproduce.outcomes import gap
from reproduce.published import PUBLISHED


def bound(it: dict, **_) -> Finding:
    found, ends = it["results"], it["results"]["bound"]
    best, beta2, least, avgrad, adam = found["best_rho"], found["beta2"], ends["least"], ends["AVGrad"], ends["Adam"]
    first, second = ("AVGrad", "Adam") if found["T"] >= 10_000 else ("Adam", "AVGrad")
    return Finding(
        f"least at rho = beta2; {first} below {second}",
        f"least at rho = {best:g} ({least:.3f}); AVGrad {avgrad:.3f}, Adam {adam:.3f}",
        {
            "the bound is least at rho = beta2": abs(best - beta2) < 2e-3,
            f"{first}'s bound is below {second}'s": ends[first] < ends[second],
        },
        [
            (
                f"With all constants 1 and T = {found['T']:,} the right-hand side of (6) is least at rho = {best:g}, "
                f"where beta2 is {beta2:g}."
            ),
            f"It is {least:.3f} there, {avgrad:.3f} for AVGrad (rho = 0) and {adam:.3f} for Adam (rho = 1).",
            "This is arithmetic on the bound, and says nothing of a run.",
        ],
    )


def proposition(it: dict, **_) -> Finding:
    growth = {rule: 100 * (value - 1) for rule, value in it["results"].items()}
    printed = growth["rho_t = 1 / (t (1 - beta2) + 1), the bound"]
    turns = growth["below the bound, but not falling (0, then the bound, in turns)"]
    return Finding(
        "no growth for any such rho_t",
        f"at the bound up to {printed:+.2f} % in a step; below it, but not falling, up to {turns:+.0f} %",
        {
            "no step size grows with rho_t at the bound": printed <= 1e-10,
            "nor with a rho_t below it that does not fall": turns <= 1e-10,
        },
        [
            (
                f"With rho_t equal to the printed bound the step size still grew by up to {printed:.2f} % in a step: "
                "where gradients stop after a burst late in training, t V_t falls by nearly (1 - beta2)^2 of itself."
            ),
            (
                f"With beta2 times that rho_t it changed by {growth['beta2 times the bound']:+.2f} % at most, "
                f"with rho_t = 0 by {growth['rho_t = 0 (AVGrad)']:+.2f} %."
            ),
            f"A rho_t below the bound that does not fall with t can let it grow by {turns:.0f} %.",
        ],
    )


def curves(it: dict, name: str, **_) -> Finding | None:
    """None where MADA or Adam has not been run, or has diverged in every seed."""
    ran, authors = it["results"], it["authors"]
    rows = {label: row for label, row in ran.items() if row.get("at the scale's rate", {}).get("mean") is not None}
    if not {"MADA", "Adam"} <= rows.keys():
        return None
    at = {label: row["at the scale's rate"]["mean"] for label, row in rows.items()}
    best = {label: row.get("at its best rate", row["at the scale's rate"]) for label, row in rows.items()}
    tuned = {label: it["mean"] for label, it in best.items()}
    bracketed = any(row["factor"] != 1 for row in rows.values())
    last = list(authors["Adam"])[-1]
    rivals = [label for label in rows if not label.startswith("MADA")]
    single = [label for label, row in rows.items() if row["at the scale's rate"]["n"] == 1]
    ends = listed([f"{label} {log[last]:.4f}" for label, log in authors.items()])
    lowest = min(at, key=at.get)
    sentences = [
        f"At {it['rates']} rates {lowest} ends lowest ({at[lowest]:.3f}), "
        + f"MADA at {at['MADA']:.3f}, Adam at {at['Adam']:.3f}"
        + f"; each at its best rate {min(tuned, key=tuned.get)} does ({min(tuned.values()):.3f})" * bracketed
        + "."
        + f" Of {listed(single)} there is one seed." * bool(single)
    ]
    for early in it["early"]:
        theirs = {label: f" (the authors': {gap:+.3f})" for label, gap in early["authors"].items()}
        gaps = [
            f"{label} {gap['words']}{theirs.get(label, '')}"
            for label, gap in early["gaps"].items()
            if label.startswith("MADA") and label != "MADA-FS"
        ]
        sentences.append(
            f"After {early['step']} steps, {early['percent']:.0f} % of the schedule, the gap to Adam is {listed(gaps)}."
        )
    sentences.append(
        f"The authors' logs are at {ends} after {float(last):,.0f} steps; "
        "two of them look like a fixed validation set, two like random batches"
        + f"; Table 6 has {PUBLISHED['table6']['rows']['MADA (rho_0 = 0)'][0]:g} for the last" * (name == "fig3")
        + "."
    )
    usual = {label: row["at the scale's rate"] for label, row in rows.items()}
    claim = f"MADA ends below every baseline by more than two paired standard errors at {it['rates']} rates"
    checks = {claim: below(usual, rivals)}
    if bracketed:
        checks["and where each has its best rate"] = below(best, rivals)
    ours = ", ".join(f"{label} {at[label]:.3f}" for label in dict.fromkeys(("MADA", "Adam", lowest)))
    return Finding(f"the authors' logs are at {ends}", f"{ours} at {it['rates']} rates", checks, sentences)


def below(spreads: dict, rivals: list[str]) -> bool:
    """Whether MADA is clearly below all of these, in pairs of runs with the same seed."""
    gaps = [gap(spreads["MADA"], spreads[label]) for label in rivals]
    return all(it is not None and it.clear and it.mean < 0 for it in gaps)


def ranged(seeds: list[dict], key: str, what: str = "end") -> str:
    """Of a coefficient over the seeds."""
    values = [seed[key][what] for seed in seeds]
    return " to ".join(dict.fromkeys(f"{end:.3f}" for end in (min(values), max(values))))


def travelled(seed: dict) -> float:
    """How far the coefficients end from their starts, in sum."""
    return sum(abs(each["end"] - each["start"]) for each in seed.values())


def in_phases(found: dict, theirs: dict, others: dict) -> tuple[dict, str, str]:
    seeds, beta1, rho = list(found.values()), theirs["beta1"], theirs["rho"]
    phases = listed([str(it) for it in sorted({seed["rho"]["phases"] for seed in seeds})])
    return (
        {
            "beta1 rises, then falls, by more than 0.02 each": all(seed["beta1"]["phases"] == 2 for seed in seeds),
            "rho rises, falls and rises, by more than 0.02 each": all(seed["rho"]["phases"] == 3 for seed in seeds),
        },
        f"beta1 up to {beta1['high']:.2f}, then {beta1['end']:.2f}; rho in {rho['phases']} phases",
        f"beta1 ends at {ranged(seeds, 'beta1')}, rho at {ranged(seeds, 'rho')}, in {phases} phases",
    )


def farther(found: dict, theirs: dict, others: dict) -> tuple[dict, str, str]:
    fig5 = others.get("fig5", {"results": {}, "authors": theirs})
    usual = fig5["results"].get("MADA (rho_0 = 0)", {})
    pairs = [travelled(found[seed]) > travelled(usual[seed]) for seed in found if seed in usual]
    here, there = (mean(map(travelled, runs.values())) if runs else 0 for runs in (found, usual))
    claim = "the six coefficients end farther from their start than in Figure 5, in every seed"
    return (
        {claim: bool(pairs) and all(pairs)},
        f"in sum the six move by {travelled(theirs):.2f}, in Figure 5 by {travelled(fig5['authors']):.2f}",
        f"in sum by {here:.2f}, in Figure 5 by {there:.2f}; beta1 ends at {ranged([*found.values()], 'beta1')}",
    )


def at_its_end(found: dict, theirs: dict, others: dict) -> tuple[dict, str, str]:
    seeds = list(found.values())
    return (
        {"beta1 ends at 0.985 or more in every seed": all(seed["beta1"]["end"] >= 0.985 for seed in seeds)},
        f"beta1 ends at {theirs['beta1']['end']:.2f}, beta3 at {theirs['beta3']['end']:.2f}",
        f"beta1 ends at {ranged(seeds, 'beta1')}, beta3 at {ranged(seeds, 'beta3')}",
    )


CLAIMS = {  # of what the seeds' coefficients do, the authors', other summaries: checks, the paper's words, ours
    "fig5": in_phases,
    "fig6": farther,
    "fig7": at_its_end,
}


def coefficients(it: dict, name: str, others: dict, **_) -> Finding | None:
    """None where the figure's row has not been run."""
    label = NAMES[name].rest[0]
    if label not in it["results"]:
        return None
    seeds, theirs = list(it["results"][label].values()), it["authors"]
    checks, paper, ours = CLAIMS[name](it["results"][label], theirs, others)
    ours += " (one seed)" * (len(seeds) == 1)
    moved = max(abs(seed[key]["end"] - seed[key]["start"]) for seed in seeds for key in ("beta1", "beta2"))
    sentences = [
        (
            f"Here beta1 ends at {ranged(seeds, 'beta1')}, beta3 at {ranged(seeds, 'beta3')} "
            f"and rho at {ranged(seeds, 'rho')}; "
            f"no beta1 or beta2 ends more than {moved:.3f} from its start."
        ),
        (
            f"At the end of the warm-up beta1 is at {ranged(seeds, 'beta1', 'warm')} "
            f"(the authors': {theirs['beta1']['warm']:.3f}), "
            f"rho at {ranged(seeds, 'rho', 'warm')} ({theirs['rho']['warm']:.3f})."
        ),
        (
            f"In the authors' log beta1 reaches {theirs['beta1']['high']:.2f} "
            f"and ends at {theirs['beta1']['end']:.2f}, "
            f"beta3 ends at {theirs['beta3']['end']:.2f} and rho at {theirs['rho']['end']:.2f}."
        ),
    ]
    if other := it["results"].get(f"{label} (rule=authors)"):
        rho, gamma = ([seed[key][what] for seed in other.values()] for key, what in (("rho", "end"), ("gamma", "low")))
        sentences.append(
            "Under rule=authors, which is what the released code computes, "
            f"rho ends at {min(rho):.2f} to {max(rho):.2f}, and gamma goes down to {min(gamma):.2f}."
        )
    return Finding(paper, ours, checks, sentences)


def grid(it: dict, **_) -> Finding:
    train, val = (it["results"][f"final_{which}_loss"] for which in ("train", "val"))

    def share(found, other):
        return listed([f"{100 * seed[f'below {other}']:.0f} %" for seed in found["ours"]])

    theirs, theirs_val = train["authors"], val["authors"]
    part, part_val = (f"{100 * each['below adam']:.1f} %" for each in (theirs, theirs_val))
    names = ("adam", "hyperadam", "mada")
    worst = {key: [seed[f"worst of {key}"] for seed in train["ours"]] for key in names}  # None: a cell diverged
    worst = [f"{key} up to {math.inf if None in some else max(some):.3g}" for key, some in worst.items()]
    best = [f"{key} {min(seed[f'best of {key}'] for seed in train['ours']):.3f}" for key in names]
    checks = {}
    for other in ("adam", "hyperadam"):
        claim = f"MADA's training loss is below {other}'s in more than half of the cells, in every seed"
        checks[claim] = all(seed[f"below {other}"] > 0.5 for seed in train["ours"])
    return Finding(
        f"authors' cells: below Adam in {part} in training, {part_val} in validation",
        f"below Adam in {share(train, 'adam')} of the cells in training, "
        f"{share(val, 'adam')} in validation (a number per seed)",
        checks,
        [
            (
                f"**In the authors' own grid MADA is below Adam in training loss in {part} of {theirs['cells']} cells, "
                f"and in validation loss in {part_val}** "
                f"(means over the cells: MADA {theirs_val['mean of mada']:.3f}, "
                f"HyperAdam {theirs_val['mean of hyperadam']:.3f}, Adam {theirs_val['mean of adam']:.3f}; in training "
                f"{theirs['mean of mada']:.3f}, {theirs['mean of hyperadam']:.3f}, {theirs['mean of adam']:.3f}): "
                "the runs overfit, and whoever trains faster ends worse on what it has not seen."
            ),
            (
                "Here, where a run reads its text less than once, "
                f"MADA is below Adam in {share(train, 'adam')} of the cells in training loss "
                f"and in {share(val, 'adam')} in validation loss, "
                f"below HyperAdam in {share(train, 'hyperadam')} and {share(val, 'hyperadam')}."
            ),
            f"What it saves is the worst cells ({listed(worst)}); the best cells are no better ({listed(best)}).",
        ],
    )


def convex(it: dict, **_) -> Finding:
    x, rho, when = (it["results"][key] for key in ("x", "rho", "reaches -0.95 at"))
    steps = it["results"]["iter"]
    arrived = {label: step for label, step in when.items() if step}
    mada = {label: step for label, step in arrived.items() if label.startswith("MADA")}
    stuck = [f"{label} (x = {x[label]:.2f})" for label in x if label.startswith("MADA") and label not in arrived]
    first = [f"{label} (after {arrived[label]:,} steps)" for label in sorted(arrived, key=arrived.get)]
    return Finding(
        "AVGrad and MADA reach x = -1 with rho to 0; Adam does not",
        f"x: Adam {x['Adam']:.2f}, AVGrad {x['AVGrad']:.2f}, MADA {x['MADA']:.2f} (rho {rho['MADA']:.3f}), "
        "with rates found by hand",
        {
            "Adam ends at x > 0.5": x["Adam"] > 0.5,
            "AVGrad and AMSGrad end at x < -0.95": max(x["AVGrad"], x["AMSGrad"]) < -0.95,
            "MADA ends at x < -0.95, with rho < 0.01": x["MADA"] < -0.95 and rho["MADA"] < 0.01,
        },
        [
            (
                f"After {steps:,} steps Adam is at x = {x['Adam']:.2f}, AVGrad at {x['AVGrad']:.2f} "
                f"and AMSGrad at {x['AMSGrad']:.2f}; "
                f"MADA from Adam's corner is at {x['MADA']:.2f} with rho = {rho['MADA']:.3f}, "
                "with hyper-learning-rates that were found by trying some hundreds of combinations by hand."
            ),
            f"Below -0.95 first come {listed(first)}; of MADA's rows {min(mada, key=mada.get)} is the first.",
            f"With other settings MADA does not get there: {listed(stuck)}.",
        ],
    )
