"""Faults for hours: thousands of bad inputs, and runs that are killed at random moments; its report is a table.

    python tests/faults/soak.py --minutes 60 --report results/reliability/README.md        # make soak

Every case is a new one. It ends with status 1 where one was not survived; the report says which, and what it was.
"""

import argparse
import collections
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
import fuzz
import fuzz_scripts
import tiny
import torch
from hypothesis import HealthCheck, given, seed, settings

import metrics

KINDS = fuzz.KINDS | fuzz_scripts.KINDS
RUN = {"max_iters": 60, "eval_interval": 4, "lr_decay_iters": 60, "dropout": 0.1}


def fuzzed(kind, examples, start):
    """Run `examples` new cases of a kind -> number tried, [(case, what went wrong)]."""
    strategy, check = KINDS[kind]
    tried, failed = [0], []

    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(case):
        tried[0] += 1
        try:
            wrong = check(case)
        except Exception as error:  # noqa: BLE001 the harness's own
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failed.append((repr(case)[:300], wrong))

    run()
    return tried[0], failed


def killed(rng, name, signals):
    """A run that is killed at a random moment, again and again until it ends, computes what an undisturbed one did."""
    shutil.rmtree(name, ignore_errors=True)
    words = [
        sys.executable,
        tiny.__file__,
        os.path.abspath("data"),
        *tiny.arguments(**RUN, out_dir=name, init_from="auto"),
    ]
    kills = 0
    while True:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            error = process.communicate(timeout=rng.uniform(1.5, 5) if kills < 4 else 300)[1]
            break
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice(signals))
            kills += 1
            error = process.communicate()[1]
            if process.returncode not in (0, 75) and process.returncode > 0:
                break
    if process.returncode != 0:
        return kills, f"status {process.returncode}: {error[-300:]}"
    ends = [torch.load(f"{each}/ckpt_last.pt") for each in ("undisturbed", name)]
    same = all(tiny.same(ends[0][key], ends[1][key]) for key in ("model", "optimizer", "iter", "best_val_loss"))
    return kills, None if same else "another end than the undisturbed run's"


def table(rows, failures, minutes):
    """The report, in Markdown."""
    lines = [
        "# Reliability",
        "",
        "Made by `make soak`, which feeds bad inputs to train.py and what reads its runs, and kills runs at random.",
        "*Survived*: a bad input ended with status 0, or with status 2 and one line, left nothing half-made and harmed",
        "no checkpoint; a damaged checkpoint or record did not change the run's end; a killed run that was resumed",
        "ended with the undisturbed run's state, bit for bit.",
        "",
        f"{minutes:.0f} minutes on {os.cpu_count()} CPU cores, {time.strftime('%Y-%m-%d')}, torch {torch.__version__},",
        f"commit {metrics.git_revision()}.",
        "",
        "| fault | tried | survived |",
        "|---|---|---|",
        *(f"| {name} | {tried:,} | {survived:,} |" for name, (tried, survived) in rows.items()),
    ]
    if failures:
        lines += ["", "Not survived:", "", *(f"- {name}: `{case}`: {wrong}" for name, case, wrong in failures[:50])]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--report", type=Path, help="where to write the table; default: only print it")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of the cases; default: a new one")
    parser.add_argument("--examples", type=int, default=100, help="cases of each kind in a round")
    args = parser.parse_args()
    report, revision = args.report and args.report.resolve(), metrics.git_revision()
    metrics.git_revision = lambda: revision  # once is enough
    rng, counts, failures = random.Random(args.seed), collections.defaultdict(lambda: [0, 0]), []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz.prepare(Path(folder))
        fuzz.fresh(target="straight")
        fuzz.call(*fuzz.arguments(init_from="resume", out_dir="straight"))
        tiny.run(**RUN, out_dir="undisturbed")
        while time.monotonic() - begin < 60 * args.minutes:
            for kind in KINDS:
                tried, failed = fuzzed(kind, args.examples, rng.getrandbits(32))
                counts[kind][0] += tried
                counts[kind][1] += tried - len(failed)
                failures += [(kind, *it) for it in failed]
            for name, signals in (("SIGKILL", [9]), ("SIGTERM, SIGHUP, SIGUSR1, SIGINT", [15, 1, 10, 2])):
                kills, wrong = killed(rng, "killed", signals)
                counts[name][0] += kills
                counts[name][1] += kills * (wrong is None)
                failures += [(name, f"seed {args.seed}", wrong)] * (wrong is not None)
            text = table(counts, failures, (time.monotonic() - begin) / 60)
            if report:
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(text)
            print(text, flush=True)
        os.chdir("/")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
