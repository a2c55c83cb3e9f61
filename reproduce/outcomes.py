"""What finished runs are worth: means and spreads over seeds, and when a difference is one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import metrics
from settings import UserError, one_line


class Ended(NamedTuple):
    """A finished run as results/ has it."""

    seed: int
    header: dict
    records: list
    evaluation: dict  # {data set: {"perplexity": ...}}

    def value(self, key: str) -> float:
        """The last value in the metrics; NaN for a run that diverged."""
        values = [record[key] for record in self.records if key in record]
        return math.nan if self.header.get("diverged") or not values else values[-1]

    def perplexity(self, name: str) -> float | None:
        """None where it was not measured; NaN for a run that diverged."""
        return math.nan if self.header.get("diverged") else self.evaluation.get(name, {}).get("perplexity")


def read(path: Path) -> tuple[dict, list]:
    """A run's file in results/: header, records. Raises UserError if it is damaged."""
    with readable(path):
        header, *records = map(metrics.from_line, path.read_bytes().splitlines())
        return header, records


def whole(runs: list[Ended]) -> list[Ended]:
    """Those that did not diverge, and so have records up to the last step."""
    return [run for run in runs if not run.header.get("diverged")]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises UserError if the block cannot make sense of what is in a file of results/."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): restore it, or delete it to run it again") from None


def read_to_draw(path: Path) -> tuple[dict, list]:
    """`read` for a script that draws what it has measured before. Raises UserError where there is no file."""
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"--draw: there is no {path}; run without it first") from None


def spread(values: dict) -> dict:
    """{"n", "diverged", "mean", "sd", "values"} of {seed: value}, without None; mean and sd of the finite ones."""
    values = {seed: value for seed, value in values.items() if value is not None}
    good = [value for value in values.values() if math.isfinite(value)]
    middle, sd = (mean(good) if good else None), (stdev(good) if len(good) > 1 else None)
    return {"n": len(values), "diverged": len(values) - len(good), "mean": middle, "sd": sd, "values": values}


def digits_of(key: str) -> int:
    """How many decimals a value of the metrics is shown with: accuracies are in percent."""
    return 2 if key == "accuracy" else 4


def text(it: dict | None, digits: int) -> str:
    """A spread in words."""
    if it is None or it["mean"] is None:
        return "diverged" if it and it["n"] else "-"
    sd = "" if it["sd"] is None else f" ± {it['sd']:.{digits}f}"
    return f"{it['mean']:.{digits}f}{sd}" + f" ({it['diverged']} diverged)" * (it["diverged"] > 0)


def standard_error(differences: list[float]) -> float | None:
    """Of their mean; None for one."""
    return stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None


class Gap(NamedTuple):
    """The paired difference of two rows: runs with the same seed have the same initial weights and batches."""

    mean: float
    error: float | None  # its standard error; None for one seed
    n: int  # seeds that both have
    same: int  # how many of these have the sign of the mean
    lost: int = 0  # seeds in which the row diverged, and the baseline did not

    @property
    def clear(self) -> bool:
        """The criterion for a difference in tables and figures: over two paired standard errors, and no seed lost."""
        return self.error is not None and abs(self.mean) > 2 * self.error and not self.lost

    def words(self, better: str, digits: int) -> str:
        sign = "better" if (self.mean < 0) == (better == "lower") else "worse"
        lost = f", and {self.lost} diverged" * bool(self.lost)
        if self.error is None:
            return f"{self.mean:+.{digits}f} (one seed{lost})"
        word = sign if self.clear else "no clear difference"
        return f"{self.mean:+.{digits}f} ± {self.error:.{digits}f}, {word} ({self.same}/{self.n}{lost})"


def gap(it: dict | None, baseline: dict | None) -> Gap | None:
    """Of two spreads, over the seeds in which both are finite; None where there is none."""
    if not it or not baseline or it is baseline:
        return None
    pairs = [(value, baseline["values"][seed]) for seed, value in it["values"].items() if seed in baseline["values"]]
    both = [ours - theirs for ours, theirs in pairs if math.isfinite(ours - theirs)]
    if not both:
        return None
    lost = sum(math.isfinite(theirs) and not math.isfinite(ours) for ours, theirs in pairs)
    return Gap(mean(both), standard_error(both), len(both), sum(each * mean(both) > 0 for each in both), lost)


def best_mean(found: dict, better: str):
    """The key with the best mean over the seeds that all have in common; None where there are none.

    found: {key: {seed: value}}; better: "lower" or "higher".
    """
    seeds = sorted(set.intersection(*map(set, found.values()))) if found else ()
    means = {key: mean(it[seed] for seed in seeds) for key, it in found.items()} if seeds else {}
    return (min if better == "lower" else max)(means, key=means.get, default=None)


def best_of(factors: dict[float, list[Ended]], value, better: str) -> float:
    """The factor on the learning rate with the best mean, over the seeds that the candidates have in common: factors at
    which no run diverged, with two seeds or more (or with any number, where none has two).
    """
    found = {}
    for factor, runs in factors.items():
        found[factor] = {run.seed: it for run in runs if (it := value(run)) is not None}
    found = {factor: it for factor, it in found.items() if it and all(map(math.isfinite, it.values()))}
    found = {factor: it for factor, it in found.items() if len(it) > 1} or found
    best = best_mean(found, better)
    return 1 if best is None else best


def headers(runs: dict) -> list[dict]:
    """The headers of all runs in {label: {factor: [Ended, ...]}}."""
    return [run.header for factors in runs.values() for ended in factors.values() for run in ended]


def conditions(headers: list[dict]) -> str:
    """A sentence on the hardware, versions, data and time of runs, from their headers."""

    def some(key):
        return list(dict.fromkeys(str(header[key]) for header in headers if header.get(key) is not None))

    whole = [it["seconds"] for it in headers if it.get("seconds") and not it.get("resumed_at")]
    data = dict.fromkeys(header["data"]["source"] for header in headers if "data" in header)
    words = [f"{len(headers)} run{'s' * (len(headers) > 1)} on {' or '.join(some('device'))}"]
    if threads := some("cpu_threads"):
        words.append(f"CPU threads: {', '.join(threads)}")
    if whole:
        words.append(f"{mean(whole):.{0 if mean(whole) > 10 else 1}f} s{' each' * (len(whole) > 1)}")
    if resumed := sum(bool(it.get("resumed_at")) for it in headers):
        words.append(f"{resumed} of them in several legs")
    words += [f"torch {', '.join(some('torch'))}", f"commit {', '.join(git[:7] + git[40:] for git in some('git'))}"]
    changed = " (+: with changes that were not committed)" * any(git.endswith("+") for git in some("git"))
    return ", ".join(words) + changed + "." + f" Data: {'; '.join(data)}." * bool(data)
