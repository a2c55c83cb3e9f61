"""What a training run is: a flat script like train.py with its settings, and an id that is the hash of both.

one = run("train.py", "config/train_shakespeare_char_cpu.py", beta1=0.8)
two = one.but(beta1=0.9)                  # the base config is not parsed anew: a grid of thousands is listed at once
"""

import hashlib
import os
from functools import cache, cached_property

from settings import checked, declared, parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FREE = (  # settings that are not in the id
    "out_dir",
    "overwrite",
    "device",
    "timeout_minutes",
    "wandb_log",
    "wandb_project",
    "wandb_run_name",
)
declared = cache(declared)


class Run:
    """script: its path; given: {setting: value}, those that are not the script's defaults; cfg: all of them."""

    def __init__(self, script: str, given: dict):
        self.script, self.given = script, given
        self.cfg = {name: setting.default for name, setting in declared(script).items()} | given

    def __reduce__(self):  # thousands are sent to each worker
        return Run, (self.script, self.given)

    @cached_property
    def id(self) -> str:
        """Of the script and its resolved settings; those that are None do not count, so that a new one changes no id."""
        what = {name: value for name, value in self.cfg.items() if name not in FREE and value is not None}
        text = repr([os.path.basename(self.script), sorted(what.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def but(self, **settings) -> "Run":
        """This run with other settings. Raises UserError."""
        known = declared(self.script)
        return Run(self.script, self.given | {name: checked(known, name, it, "run") for name, it in settings.items()})


def run(script: str, *arguments: str, **settings) -> Run:
    """The Run of a script under ROOT (or anywhere), with arguments as on its command line. Raises UserError."""
    script = os.path.join(ROOT, script)
    return Run(script, parse(declared(script), arguments)[1]).but(**settings)
