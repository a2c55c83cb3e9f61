"""What results/ holds of a lineup: which runs it wants, their metrics, and the perplexities of their checkpoints.

results/NAME/SCALE/runs/LINEUP/ has a file of metrics per run, without this machine's paths; its first line has the
run's id. Tables and figures are made from these files alone. Checkpoints and logs are in out/runs/ID/ (pool.py), so
that names that need the same run share it.
"""

import contextlib
import itertools
import json
import math
import os
import re
from pathlib import Path

import numpy as np

import checkpoints
import data.tokens
import metrics
import pretrained
from reproduce import ROOT, ngrams, pool
from reproduce.experiments import BASELINE, LINEUPS, NAMES
from reproduce.outcomes import Ended, read, readable
from reproduce.runs import FIRST_SEED, Run, declared, first_seeds, run
from settings import UserError

RESULTS, WORK = ROOT / "results", ROOT / "out" / "runs"
said = set()  # what this process has said about missing data


def home(lineup: str, scale: str):
    """Where the metrics of a lineup's runs are: under the first name that shows them."""
    first = next(name for name, it in NAMES.items() if lineup in it.lineups)
    return RESULTS / first / scale / "runs" / lineup


def file_of(lineup: str, scale: str, label: str, factor: float, seed: int):
    """The file of a run's metrics."""
    slug = re.sub("[^a-z0-9.=]+", "-", re.sub("-(?= |$)", " minus", label.lower())).strip("-")
    return home(lineup, scale) / f"{slug}{f'-lr-x{factor:g}' * (factor != 1)}-seed{seed}.jsonl"


def base(lineup: str, label: str, scale: str | None) -> Run:
    """A row by its config files, with those of the scale (None: the paper's own) on top."""
    it = LINEUPS[lineup]
    row = it.rows[label][2:] if it.rows[label][0] == "final of" else it.rows[label]
    files = it.scales[scale].files if scale else ()
    return run(it.script, *row, *files)


def cells(lineup: str, scale: str, seeds: int | None, grid: bool, waiting: bool = False) -> dict[tuple, Run]:
    """{(label, factor on the learning rate, seed): Run}; those that wait for another row's end only if `waiting`."""
    it, found, bases = LINEUPS[lineup], {}, {}
    how = it.scales[scale]
    seeds = first_seeds(seeds or how.seeds)
    tuned = how.tuned or it.tuned or it.rows
    for factor, seed, label in itertools.product((1, *how.grid) if grid else (1,), seeds, how.rows or it.rows):
        if factor != 1 and label not in tuned:
            continue
        fixed = {}
        if it.rows[label][0] == "final of":
            end = file_of(lineup, scale, it.rows[label][1], factor, seed)
            if not end.exists() and not waiting:
                continue
            fixed = read(end)[1][-1]["coefficients"] if end.exists() else {}
        if label not in bases:
            bases[label] = base(lineup, label, scale)
        plain = bases[label]
        own = fixed | ({"seed": seed} if "seed" in plain.cfg else {})
        if factor != 1:
            own |= {name: factor * plain.cfg[name] for name in ("learning_rate", "min_lr") if name in plain.cfg}
        found[label, factor, seed] = plain.but(**own)
    return found


def fresh(path, cell: Run) -> bool:
    """Whether results/ holds this very run."""
    if not path.exists():
        return False
    with open(path) as file, readable(path):
        return json.loads(file.readline()).get("run") == cell.id


def contradicts(header: dict, cell: Run) -> list[str]:
    """The settings in which a file's run differs from the one wanted now; settings newer than it do not count."""
    before = {name: value for name, value in header["config"].items() if value != "resume"}  # in its last leg
    known = declared(cell.script)
    plain = {name: json.loads(json.dumps(it)) for name, it in cell.cfg.items() if not known[name].free}
    return [name for name, value in plain.items() if name in before and before[name] != rounded(value)]


def gather(lineup: str, scale: str) -> dict:
    """{label: {factor: [Ended, ...]}} of what results/ holds of a lineup and its present settings."""
    seeds = [int(path.stem.rpartition("seed")[2]) for path in home(lineup, scale).glob("*-seed*.jsonl")]
    wanted, found = cells(lineup, scale, max(seeds, default=FIRST_SEED) - FIRST_SEED + 1, True), {}
    for (label, factor, seed), cell in wanted.items():
        path = file_of(lineup, scale, label, factor, seed)
        if not path.exists():
            continue
        header, records = read(path)
        if header.get("run") != cell.id and (other := contradicts(header, cell)):
            print(f"{path.name} is left out: it was run with another {', '.join(other)}")
            continue
        extra = path.with_suffix(".evaluation.json")
        evaluation = json.loads(extra.read_text()) if extra.exists() else {}
        ended = Ended(seed, header, records, evaluation if evaluation.get("run") == header["run"] else {})
        found.setdefault(label, {}).setdefault(factor, []).append(ended)
    return found


def say(folder: Path):
    """Print what a folder of results/ holds."""
    where = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"{where}: {', '.join(sorted(os.listdir(folder)))}")


def rounded(x):
    """With 7 significant digits: files of half the size."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return float(f"{x:.7g}") if isinstance(x, float) else x


def collect(lineup: str, scale: str, found: dict[tuple, Run]):
    """Copy the metrics of runs that have ended, without this machine's paths, and measure their perplexities."""
    for key, cell in found.items():
        state, path = pool.look(cell, WORK), file_of(lineup, scale, *key)
        if state["state"] != "done":
            continue
        out_dir = os.path.join(WORK, cell.id)
        header, records = metrics.read(out_dir)
        del header["config"]["out_dir"]
        header |= {"run": cell.id, "diverged": state.get("diverged", False), "seconds": state.get("seconds")}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(metrics.to_line(rounded(record)) for record in [header, *records]))
        checkpoint = os.path.join(out_dir, checkpoints.LAST)
        wanted = LINEUPS[lineup].scales[scale].evaluated
        if wanted and key[1] == 1 and not header["diverged"] and os.path.exists(checkpoint):
            there = path.with_suffix(".evaluation.json")
            before = json.loads(there.read_text()) if there.exists() else {}
            before = before if before.get("run") == cell.id else {"run": cell.id}
            there.write_text(json.dumps(before | perplexities(checkpoint, wanted, before)) + "\n")


def ngram_losses(lineup: str, scale: str) -> list[float] | None:
    """ngrams.losses of a scale's bytes or characters: kept with its runs, computed where the text is there."""
    path, cfg = home(lineup, scale).with_suffix(".ngrams.json"), base(lineup, BASELINE, scale).cfg
    if not path.exists() and "block_size" in cfg and path.parent.is_dir():
        with contextlib.suppress(UserError):
            train, val = (data.tokens.Tokens(cfg["dataset"], split, cfg["block_size"]) for split in ("train", "val"))
            if train.meta["tokenizer"] in ("bytes", "char"):
                arrays = (np.fromfile(split.path, split.meta["dtype"]) for split in (train, val))
                path.write_text(json.dumps(ngrams.losses(*arrays)) + "\n")
    return json.loads(path.read_text()) if path.exists() else None


def perplexities(checkpoint: str, names: dict, known: dict) -> dict:
    """{column: loss and perplexity as in the paper's tables} of data sets that are not known yet and are there.

    names: {column: (data set, split)}.
    """
    found, names = {}, {column: name for column, name in names.items() if column not in known}
    model, meta = pretrained.load(checkpoint, "auto") if names else (None, None)
    for column, (name, split) in names.items():
        try:
            split = data.tokens.split(name, split, model.config.block_size)
            pretrained.check_tokens(name, split.meta, meta)
        except UserError as error:
            if error.args not in said:
                said.add(error.args)
                print(f"no perplexity on {name}: {error}")
            continue
        loss, windows = pool.load(str(ROOT / "scripts" / "evaluate.py")).Evaluation(model, 64).paper(split)
        found[column] = {"loss": loss, "perplexity": math.exp(loss), "windows": windows, "source": split.meta["source"]}
    return found
