"""Do many training runs, each once, whatever dies in the meantime.

    runs = [run("train.py", "config/train_shakespeare_char_cpu.py", beta1=beta1) for beta1 in (0.8, 0.9)]
    execute(runs, "out/many")                          # called again, or elsewhere at once, it does what is missing
    metrics.read(f"out/many/{runs[0].id}")             # header, records

FOLDER/ID/ is the out_dir of a run. In addition to what the script writes there, it holds log.txt, state.json (running,
done or failed) and lock, which the worker holds: the kernel frees it when that process dies, and machines may share the
folder. A run that is marked as running but not locked has lost its worker; it resumes from its last checkpoint.

A script is a flat one like train.py: settings out_dir and init_from ("resume" goes on from out_dir's ckpt_*.pt), and
train(cfg, given), which returns its last loss or score, or None if SIGTERM stopped it, and raises settings.Diverged and
settings.Finished where these apply. A worker does one run after another, so that imports and compiled code are shared.
"""

import contextlib
import errno
import gc
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from multiprocessing import connection
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import data.tokens
from checkpoints import BEST, LAST, PREVIOUS
from reproduce.runs import Run
from settings import Diverged, Finished, UserError

CHECKPOINTS = (LAST, PREVIOUS, BEST)  # a script can resume from any of them
DEATHS = 5  # of a run's workers at the same checkpoint, after which the run has failed
FULL, FRESH = 74, 75  # exit status of a worker that cannot write, and of one to be replaced by a new one
# what state.json must say of each state
STATES = {"running": ("where", "deaths"), "done": ("diverged", "seconds"), "failed": ("error",)}
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


class CannotWrite(UserError):
    """The folder's disk is full, or the like: not the run's fault."""


class Stopped(UserError):
    """SIGTERM or ctrl-C; the same call resumes."""


# the state of a run on the disk


def read(path: Path) -> dict:
    """What state.json says; {"state": "pending"} where it is missing or cannot be read."""
    try:
        found = json.loads((path / "state.json").read_text())
        return found if all(name in found for name in STATES[found["state"]]) else {"state": "pending"}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {"state": "pending"}


def write(path: Path, **found) -> dict:
    """Write state.json, and return its content."""
    found |= {"host": socket.gethostname(), "pid": os.getpid()}
    (path / "state.json.part").write_text(json.dumps(found))
    os.replace(path / "state.json.part", path / "state.json")
    return found


def lock(path: Path, **how) -> contextlib.AbstractContextManager:
    """Hold a run's lock; blocking=False raises filelock.Timeout where another has it."""
    return FileLock(path / "lock").acquire(poll_interval=0.2, **how)


def look(run: Run, folder: str) -> dict:
    """{"state": "pending", "running", "done" or "failed", and what else is known of the run}."""
    found = read(path := Path(folder, run.id))
    if found["state"] == "running":
        with contextlib.suppress(Timeout), lock(path, blocking=False):
            found = read(path)
            return found | {"state": "pending"} if found["state"] == "running" else found
    return found


def forget(run: Run, folder: str):
    """Make a failed run pending, unless another process has it."""
    path = Path(folder, run.id)
    with contextlib.suppress(Timeout), lock(path, blocking=False):
        if read(path)["state"] == "failed":
            (path / "state.json").unlink()


def ended(found: dict) -> bool:
    return found["state"] in ("done", "failed")


def errors(states: dict) -> list[str]:
    """The last line of each failed run's error; states: what execute returned."""
    return [it["error"].strip().splitlines()[-1] for it in states.values() if it["state"] == "failed"]


def check_data(runs: list[Run]):
    """Raises UserError where a data set is missing, before each run fails for that reason."""
    for name in sorted({run.cfg["dataset"] for run in runs if run.cfg.get("dataset")}):
        if not os.path.exists(os.path.join(data.tokens.FOLDER, name, "meta.json")):
            raise UserError(f"data/{name} is not prepared; run: python data/{name}/prepare.py")


# one run after another


@cache
def load(script: str):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cannot_write(error: BaseException | None) -> bool:
    """Whether an exception comes from a full disk, a quota or a file system that is gone."""
    while error is not None:
        if getattr(error, "errno", None) in DISK:
            return True
        if "inline_container.cc" in str(error) and "PytorchStreamReader" not in str(error):  # torch.save of a path
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(run: Run, path: Path, keep_checkpoints: bool) -> dict:
    """Do a run whose lock we hold. Returns its state. Raises KeyboardInterrupt if stopped, or an error of the disk."""
    before, began = read(path), time.monotonic()
    there = [it for name in CHECKPOINTS if (it := path / name).exists()]
    where = max((it.stat().st_mtime_ns for it in there), default=None)
    deaths = before["deaths"] + 1 if before["state"] == "running" and before["where"] == where else 0
    if deaths == DEATHS:
        return write(path, state="failed", error=f"{DEATHS} workers died here: killed, or out of memory")
    try:
        write(path, state="running", where=where, deaths=deaths)
        script = load(run.script)
        cfg = run.cfg | {"out_dir": str(path)} | ({"init_from": "resume"} if where else {})
        with open(path / "log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            value = script.train(cfg, {*run.given, "out_dir"})
        if value is None:
            raise KeyboardInterrupt  # train held SIGTERM or ctrl-C back until its checkpoint was written
        found = {"state": "done", "diverged": not math.isfinite(value)}
    except Finished:  # killed between its last checkpoint and our next line
        found = {"state": "done", "diverged": False}
    except Diverged as error:
        found = {"state": "done", "diverged": True, "error": str(error)}
    except Exception as error:
        if cannot_write(error):
            (path / "state.json").unlink(missing_ok=True)  # it is pending again; even a full disk allows this
            raise
        said = isinstance(error, UserError)
        found = {"state": "failed", "error": str(error) if said else "".join(traceback.format_exception(error))}
        found["crashed"] = not said
    except KeyboardInterrupt:
        (path / "state.json").unlink(missing_ok=True)
        raise
    found = write(path, **found, seconds=time.monotonic() - began)
    if found["state"] == "done" and not keep_checkpoints:
        for checkpoint in path.glob("ckpt_*.pt"):
            checkpoint.unlink()
    gc.collect()
    return found


def work(runs: list[Run], folder: str, keep_checkpoints: bool) -> Iterator[tuple[str, dict]]:
    """Do the runs nobody else is doing, then wait for the others in case their worker dies. Yields (id, state)."""
    try:
        for patient in (False, True):
            busy = []
            for run in runs:
                found = read(path := Path(folder, run.id))
                if not ended(found):
                    path.mkdir(parents=True, exist_ok=True)
                    try:
                        with lock(path, blocking=patient):
                            found = read(path)
                            if not ended(found):
                                found = attempt(run, path, keep_checkpoints)
                    except Timeout:
                        busy.append(run)
                        continue
                yield run.id, found
            runs = busy
    except Exception as error:
        if cannot_write(error):
            raise CannotWrite(f"{folder} cannot be written: {error}") from error
        raise


# by many processes


def stop(*_):
    raise KeyboardInterrupt


def worker(index: int, runs: list[Run], folder: str, keep_checkpoints: bool, report: connection.Connection):
    """Process number `index` of pool(), on the GPU of that number."""

    def follow():
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)  # nobody is left to work for

    try:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # how a cluster warns the job, which stops its workers
        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=follow, daemon=True).start()
        with contextlib.suppress(Exception):  # what is wrong with a script is reported for its runs
            for script in {run.script for run in runs}:
                load(script)
        if torch.cuda.is_available():
            torch.cuda.set_device(index % torch.cuda.device_count())
        for key, found in work(runs, folder, keep_checkpoints):
            report.send((key, found))
            if found.get("crashed") and found["pid"] == os.getpid():
                sys.exit(FRESH)  # a GPU, for example, may be in no state to go on
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
    except CannotWrite:
        sys.exit(FULL)


def start(*arguments) -> tuple[connection.Connection, multiprocessing.Process]:
    """A worker process, and the connection that it reports through and that ends with it."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(*arguments, writer))
    threads = os.environ.get("OMP_NUM_THREADS")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches all; this process stops the others
    os.environ["OMP_NUM_THREADS"] = threads or "1"  # rounding depends on the number of threads
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
        os.environ.pop("OMP_NUM_THREADS") if threads is None else None
        writer.close()
    return reader, process


def pool(runs: list[Run], folder: str, keep_checkpoints: bool, workers: int) -> Iterator[tuple[str, dict]]:
    """work() by this many processes; a killed one is replaced."""
    left, deaths, processes = {run.id: run for run in runs}, 0, {}
    try:
        for index in range(workers):
            reader, process = start(index, runs, folder, keep_checkpoints)
            processes[reader] = index, process
        while processes:
            for reader in connection.wait(processes):
                try:
                    key, found = reader.recv()
                except (EOFError, OSError):
                    index, process = processes.pop(reader)
                    process.join()
                    if process.exitcode == FULL:
                        raise CannotWrite(
                            f"{folder} cannot be written: is the disk full? {len(left)} runs are left; "
                            "free some space, and run the same command to resume"
                        ) from None
                    deaths += process.exitcode < 0
                    if process.exitcode not in (0, FRESH) and (process.exitcode > 0 or deaths > workers * (DEATHS + 1)):
                        raise UserError(f"a worker ended with status {process.exitcode}; see above") from None
                    if process.exitcode and left:
                        reader, process = start(index, list(left.values()), folder, keep_checkpoints)
                        processes[reader] = index, process
                else:
                    if left.pop(key, None):
                        deaths = 0
                        yield key, found
    finally:
        for _, process in processes.values():
            process.terminate()
        for _, process in processes.values():
            process.join()


def default_workers(runs: list[Run]) -> int:
    """One per GPU that the runs may use, else one per core."""
    gpus = torch.cuda.device_count() if any(run.cfg.get("device") != "cpu" for run in runs) else 0
    return gpus or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def execute(
    runs: list[Run],
    folder: str,
    workers: int | None = None,
    retry_failed: bool = False,
    shard: tuple[int, int] = (1, 1),
    keep_checkpoints: bool = True,
) -> dict[str, dict]:
    """Do the runs that have not been done in `folder`, and wait for those that others are doing there.

    workers: processes of one thread each; None: one per GPU, or per core where there is none; 0: in this process.
    shard: (i, n), only the i-th of n equal parts. keep_checkpoints: of runs that are done. Returns {id: what is known
    of the run}. Raises Stopped on SIGTERM or ctrl-C, and CannotWrite: in both cases the same call resumes; and
    UserError, before anything runs, where data are missing.
    """
    runs = list({run.id: run for run in runs}.values())[shard[0] - 1 :: shard[1]]
    folder, known, count = os.path.abspath(folder), {}, Counter()

    def note(key, found):
        known[key] = found
        count.update({found["state"]: 1, "diverged": found.get("diverged", False)})

    for run in runs:
        found = look(run, folder)
        if found["state"] == "failed" and retry_failed:
            forget(run, folder)
        elif ended(found):
            note(run.id, found)
    left = [run for run in runs if run.id not in known]
    check_data(left)
    bar = tqdm(total=len(runs), initial=len(known), unit="run", disable=None)  # on a terminal
    handlers = {name: signal.signal(name, stop) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        if left and workers != 0:
            results = pool(left, folder, keep_checkpoints, min(workers or default_workers(left), len(left)))
        else:
            results = work(left, folder, keep_checkpoints)
        with contextlib.closing(results), bar:
            for key, found in results:
                note(key, found)
                bar.set_postfix(count)
                bar.update()
                if bar.disable:
                    words = ", ".join(f"{number} {word}" for word, number in count.items() if number)
                    print(f"{len(known)} of {len(runs)} runs: {words}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    if len(known) < len(runs):
        raise Stopped(f"stopped: {len(known)} of {len(runs)} runs have ended; run the same command to resume")
    return {run.id: known[run.id] for run in runs}
