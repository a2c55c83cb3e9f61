"""What a training run is: a flat script like train.py with its settings, and an id.

    one = run("train.py", "config/train_shakespeare_char_cpu.py", beta1=0.8)
    two = one.but(beta1=0.9)                  # does not parse the config again: thousands are listed at once

The id is the hash of what decides the result: the script, the resolved settings with the optimizer's own defaults, the
data, and NUMERICS, the version of the arithmetic.
"""

import ast
import contextlib
import hashlib
import json
import os
from functools import cache, cached_property

import data.tokens
import optim
from reproduce import ROOT
from settings import checked, declared, parse

NUMERICS = 1  # raise it when the same settings compute something else; tests/test_numerics.py says when
FIRST_SEED = 1337
declared = cache(declared)


def first_seeds(count: int) -> range:
    """The seeds of `count` repetitions."""
    return range(FIRST_SEED, FIRST_SEED + count)


class Run:
    """script: its path; given: {setting: value} where it is not the script's default; cfg: all settings."""

    def __init__(self, script: str, given: dict):
        self.script, self.given = script, given
        self.cfg = {name: setting.default for name, setting in declared(script).items()} | given

    def __reduce__(self):  # thousands are sent to each worker
        return Run, (self.script, self.given)

    @cached_property
    def id(self) -> str:
        """None, 0, False and the like do not count, so a new setting with such a default changes no id."""
        known = declared(self.script)
        what = {name: value for name, value in self.cfg.items() if not known[name].free}
        if "optimizer" in what:
            with contextlib.suppress(ValueError):  # settings that the optimizer refuses: the run itself says so
                given = repr({name: it for name, it in what.items() if name != "seed"})
                what |= resolved(what["optimizer"], given) | {"learn": what.get("learn")}  # ids have it as given
        what = sorted((name, value) for name, value in what.items() if value)
        text = repr([NUMERICS, os.path.basename(self.script), data_hash(self.cfg.get("dataset")), what])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def but(self, **settings) -> "Run":
        """This run with other settings. Raises UserError."""
        known = declared(self.script)
        return Run(self.script, self.given | {name: checked(known, name, it, "run") for name, it in settings.items()})


@cache
def resolved(optimizer: str, settings: str) -> dict:
    """What the optimizer makes of settings, given as a literal: most of thousands of runs differ by the seed alone."""
    return optim.resolved(optimizer, ast.literal_eval(settings))


def data_hash(dataset: str | None) -> str | dict | None:
    """Of the prepared data set's files; None without a data set.

    A data set that results/ was made with has the "id" of results/data.json, prepared or not, as long as it has the
    same files.
    """
    if dataset is None:
        return None
    with open(os.path.join(ROOT, "results", "data.json")) as file:
        ours = json.load(file).get(dataset, {})
    prepared = os.path.join(data.tokens.FOLDER, dataset, "meta.json")
    if os.path.exists(prepared):
        with open(prepared) as file:
            found = json.load(file).get("sha256")
        if found != ours.get("sha256"):
            return found
    return ours.get("id")


def run(script: str, *arguments: str, **settings) -> Run:
    """The Run of a script with arguments as on its command line; files are under ROOT. Raises UserError."""
    script, *arguments = (it if it.startswith("-") else os.path.join(ROOT, it) for it in (script, *arguments))
    return Run(script, parse(declared(script), arguments)[1]).but(**settings)
