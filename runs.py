"""What a training run is, and the states of many runs in a folder, where any number of processes share the work.

A run's id is the hash of what decides its result: the script, the resolved settings with the optimizer's own defaults, the
data, and NUMERICS, the version of the arithmetic. FOLDER/ID/ holds what the script writes into its out_dir,
log.txt, and attempt.N.json for the N-th time that the run was begun. Whoever creates attempt.N.json does the run: a file can
be created only once, on a folder that machines share too. Its content is the run's state: running (the file's time of change
is the worker's heartbeat), stopped, done, or failed with the error. The highest N counts. So no work is done twice, and
nothing has to be cleaned up after a worker that was killed. workers.py does the runs.
"""

import contextlib
import hashlib
import json
import os
import socket
import time
from functools import cache, cached_property

import data.tokens
import optim
from settings import checked, declared, parse

NUMERICS = 1  # to be raised when the same settings compute something else; tests/test_numerics.py says when
ROOT = os.path.dirname(os.path.abspath(__file__))
BEAT = 10.0  # seconds between heartbeats
DEAD = 120.0  # seconds without one after which a worker on another machine is taken for dead
DEATHS = 5  # of a run's workers in one place, after which the run has failed
declared = cache(declared)
mine = set()  # attempts that this process has begun and not ended


def host():
    """Where a process number means one process: machines may share a name, and containers a machine."""
    with contextlib.suppress(OSError):
        boot = open("/proc/sys/kernel/random/boot_id").read().strip()
        return [socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")]
    return [socket.gethostname()]


HOST = host()


class Run:
    """script: its path; given: {setting: value}, those that are not the script's defaults; cfg: all of them."""

    def __init__(self, script, given):
        defaults = {name: setting.default for name, setting in declared(script).items()}
        self.script, self.given, self.cfg = script, given, defaults | given

    @cached_property
    def id(self):
        """None, 0, False and the like do not count, so that a new setting whose default is one of these changes no id."""
        known = declared(self.script)
        what = {name: value for name, value in self.cfg.items() if not known[name].free}
        with contextlib.suppress(ValueError):  # of settings that no optimizer takes: the run itself says so
            what |= optim.resolved(what["optimizer"], what) if "optimizer" in what else {}
        what = sorted((name, value) for name, value in what.items() if value)
        text = repr([NUMERICS, os.path.basename(self.script), data_hash(self.cfg.get("dataset")), what])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def data_hash(dataset):
    """Of a prepared data set; where it is not, of the one that results/ was made with. None without a data set."""
    prepared, ours = (
        os.path.join(data.tokens.FOLDER, str(dataset), "meta.json"),
        os.path.join(ROOT, "results", "data.json"),
    )
    if os.path.exists(prepared):
        with open(prepared) as file:
            meta = json.load(file)
        return meta.get("source_sha256") or meta["sha256"]
    with open(ours) as file:
        return json.load(file).get(dataset)


def run(script, *arguments, **settings):
    """The Run of a script under ROOT (or anywhere), with arguments as on its command line. Raises UserError."""
    script = os.path.join(ROOT, script)
    known = declared(script)
    given = parse(known, arguments)[1]
    return Run(script, given | {name: checked(known, name, value, "run") for name, value in settings.items()})


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Board:
    """The states of the runs in a folder, as one process sees them."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.beats = {}  # attempt: its last known heartbeat, and when, by this process's clock, that was first seen

    def path(self, run, attempt=None):
        return os.path.join(self.folder, run.id, *[f"attempt.{attempt}.json"] * (attempt is not None))

    def attempts(self, run):
        try:
            names = [name.split(".") for name in os.listdir(self.path(run))]
        except FileNotFoundError:
            return []
        return sorted(int(name[1]) for name in names if name[0] == "attempt" and name[2:] == ["json"])

    def look(self, run):
        """{"state": "pending", "running", "done" or "failed", "attempt": its number or 0, and what else is known}."""
        attempts = self.attempts(run)
        if not attempts:
            return {"state": "pending", "attempt": 0}
        path = self.path(run, attempts[-1])
        with open(path) as file:
            beat, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
        found = (json.loads(text) if text else {"state": "running"}) | {"attempt": attempts[-1]}  # empty: just created
        if found["state"] == "stopped" or found["state"] == "running" and self.dead(path, beat, found):
            found["state"] = "pending"
        return found

    def dead(self, path, beat, found):
        if found.get("host") == HOST and not (path in mine if found["pid"] == os.getpid() else alive(found["pid"])):
            return True
        now = (
            time.monotonic()
        )  # clocks of machines differ, and a laptop sleeps: what counts is how long we saw no change
        if self.beats.get(path, (None,))[0] != beat:
            self.beats[path] = beat, now
        return now - self.beats[path][1] > DEAD

    def claim(self, run, attempt):
        """Begin the run's attempt of that number. Returns whether it is ours."""
        path = self.path(run, attempt)
        os.makedirs(self.path(run), exist_ok=True)
        try:
            file = open(path, "x")
        except FileExistsError:
            return False
        checkpoint = os.path.join(self.path(run), "ckpt_last.pt")
        where = os.stat(checkpoint).st_mtime_ns if os.path.exists(checkpoint) else None
        try:
            with file:
                json.dump({"state": "running", "host": HOST, "pid": os.getpid(), "where": where}, file)
        except OSError:
            os.remove(path)
            raise
        mine.add(path)
        return True

    def end(self, run, attempt, **found):
        """Write how the attempt ended."""
        path = self.path(run, attempt)
        mine.discard(path)
        with open(path + ".part", "w") as file:
            json.dump(found | {"host": HOST, "pid": os.getpid()}, file)
        os.replace(path + ".part", path)

    def deadly(self, run, attempt):
        """Whether the DEATHS attempts before this one were all killed, and where it is now."""
        texts = [open(self.path(run, n)).read() for n in self.attempts(run) if n <= attempt][-DEATHS - 1 :]
        found = [json.loads(text) if text else {"state": "unknown"} for text in texts]
        return len(found) > DEATHS and {(it["state"], it.get("where")) for it in found} == {
            ("running", found[-1]["where"])
        }
