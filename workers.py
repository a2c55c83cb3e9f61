"""Do many training runs, each once, whatever dies meanwhile: execute(), and the worker processes that it starts.

    runs = [run("train.py", "config/train_shakespeare_char_cpu.py", beta1=beta1) for beta1 in (0.8, 0.9)]
    execute(runs, "out/many")                          # invoked again, or elsewhere at once, it does what is missing
    metrics.read(f"out/many/{runs[0].id}")             # header, records

A script is a flat one like train.py: settings out_dir and init_from ("resume" goes on from out_dir's ckpt_last.pt), and
train(cfg, given), which returns its last loss or score, or None if SIGTERM stopped it, and raises settings.Diverged and
settings.Finished where these apply. A worker takes one run after another, so that imports and compiled code are shared.
"""

import contextlib
import errno
import gc
import importlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from statistics import median

from runs import BEAT, DEATHS, Board, Run, mine
from settings import Diverged, Finished, UserError

FULL, FRESH = 74, 75  # exit status of a worker that cannot write, and of one that a new one is to replace


class CannotWrite(UserError):
    """The folder's disk is full, or the like: no fault of the run's."""


class Stopped(UserError):
    """SIGTERM or ctrl-C; the same call goes on."""


@contextlib.contextmanager
def heartbeat(board, run, attempt):
    """While this lasts, the attempt is seen to be alive; if another has begun meanwhile, this process ends at once."""
    ended = threading.Event()

    def beat():
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(board.path(run, attempt))
                if board.attempts(run)[-1] > attempt:  # we were taken for dead: whatever we write now would do harm
                    os._exit(FRESH)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def cannot_write(error):
    """Whether an exception comes from a full disk, a quota or a file system that went away."""
    while error is not None:
        if getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EROFS,
            errno.EIO,
            errno.ESTALE,
        ):
            return True
        if "inline_container.cc" in str(error) and "PytorchStreamReader" not in str(error):  # torch.save of a path
            return True
        error = error.__cause__ or error.__context__
    return False


def load(script):
    """The script as a module."""
    folder, name = os.path.split(script)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name.removesuffix(".py"))


def do(run, board, attempt, keep_checkpoints):
    """One attempt at a run, here and now. Returns whether this process is still good for others."""
    out_dir, good = board.path(run), True
    if board.deadly(run, attempt):
        board.end(run, attempt, state="failed", error=f"{DEATHS} workers died here: killed, or out of memory")
        return good
    began, cfg = time.monotonic(), run.cfg | {"out_dir": out_dir}
    if os.path.exists(os.path.join(out_dir, "ckpt_last.pt")):
        cfg["init_from"] = "resume"
    try:
        script = load(run.script)
        began = time.monotonic()  # the import is not this run's
        with (
            open(os.path.join(out_dir, "log.txt"), "a") as log,
            heartbeat(board, run, attempt),
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            value = script.train(cfg, {*run.given, "out_dir"})
        if value is None:
            raise KeyboardInterrupt  # train has let SIGTERM or ctrl-C wait until its checkpoint was written
        found = {"state": "done", "diverged": not math.isfinite(value)}
    except Finished:  # killed between its last checkpoint and our next line
        found = {"state": "done", "diverged": False}
    except Diverged as error:
        found = {"state": "done", "diverged": True, "error": str(error)}
    except KeyboardInterrupt:
        board.end(run, attempt, state="stopped")
        raise
    except Exception as error:
        if cannot_write(error):
            mine.discard(board.path(run, attempt))
            os.remove(board.path(run, attempt))  # so that the run is pending again; a full disk allows that
            raise CannotWrite(f"{board.folder} cannot be written: {error}") from error
        good = isinstance(error, UserError)  # else a GPU, for one, may be in no state to go on
        found = {"state": "failed", "error": str(error) if good else "".join(traceback.format_exception(error))}
    board.end(run, attempt, **found, seconds=time.monotonic() - began)
    if found["state"] == "done" and not keep_checkpoints:
        importlib.import_module("checkpoints").clear(out_dir)  # torch: not in the process that only starts workers
    gc.collect()
    return good


def ended(found, retry=None):
    """retry: number of the failed attempt that is to be repeated."""
    return found["state"] == "done" or found["state"] == "failed" and found["attempt"] != retry


def work(runs, folder, retry, keep_checkpoints, tell=None):
    """Do what nobody does, run after run, until all have ended. retry: {id: failed attempt to repeat}.

    Without `tell`, which is called after each run, this is a worker process. Returns whether all have ended.
    """
    board, left = Board(folder), list(runs)
    try:
        while left:
            for run in list(left):
                found = board.look(run)
                if ended(found, retry.get(run.id)):
                    left.remove(run)
                elif found["state"] != "running" and board.claim(run, found["attempt"] + 1):
                    good = do(run, board, found["attempt"] + 1, keep_checkpoints)
                    if tell:
                        tell()
                    elif not good:
                        return False
            if left:
                time.sleep(0.5)  # for those that others do: they may die
    except OSError as error:
        if cannot_write(error):
            raise CannotWrite(f"{board.folder} cannot be written: {error}") from error
        raise
    return True


def errors(states):
    """The last line of what each failed run died of; states: what execute returned."""
    return [it["error"].strip().splitlines()[-1] for it in states.values() if it["state"] == "failed"]


def worker():
    """A process of execute's: takes its orders from stdin, whose end tells it that there is nobody left to work for."""

    def stop(*_):
        raise KeyboardInterrupt

    def watch():
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    index, runs, *orders = pickle.load(sys.stdin.buffer)
    threading.Thread(target=watch, daemon=True).start()
    try:
        with contextlib.suppress(Exception):  # what is wrong with a script is said of its runs
            for script in {script for script, _ in runs}:
                load(script)
        if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
            torch.cuda.set_device(index % torch.cuda.device_count())
        sys.exit(0 if work([Run(*given) for given in runs], *orders) else FRESH)
    except KeyboardInterrupt:
        sys.exit(0)
    except CannotWrite:
        sys.exit(FULL)


def start(index, *orders):
    """The worker process number `index`, on the GPU of that number, or on one thread."""
    process = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={"OMP_NUM_THREADS": "1"} | os.environ,
    )  # rounding depends on the number of threads
    with contextlib.suppress(BrokenPipeError):
        pickle.dump((index, *orders), process.stdin)
        process.stdin.flush()
    return process


def default_workers(runs):
    """One per GPU that the runs may use, else one per core."""
    import torch

    gpus = torch.cuda.device_count() if any(run.cfg.get("device") != "cpu" for run in runs) else 0
    return gpus or (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )  # macOS has none


class Progress:
    """One line: on a terminal it is written over, elsewhere there is a new one whenever a run has ended."""

    def __init__(self):
        self.last, self.most, self.terminal = None, 1, sys.stderr.isatty()

    def __call__(self, states):
        """states: what Board.look says of each run."""
        count = {
            name: sum(state["state"] == name for state in states) for name in ("done", "running", "failed", "pending")
        }
        seconds = [state["seconds"] for state in states if state["state"] == "done"]
        self.most = max(self.most, count["running"])  # when a run has just ended, its worker seems idle
        left = (count["running"] + count["pending"]) * (median(seconds) if seconds else 0) / self.most
        diverged = sum(state.get("diverged", False) for state in states)
        line = (
            f"{count['done']} of {len(states)} runs done, of which {diverged} diverged; "
            f"{count['running']} running, {count['failed']} failed"
            + (f", about {left / 60:.0f} min left" if left else "")
        )
        if self.terminal:
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        elif (count["done"], count["failed"]) != self.last:
            print(line, file=sys.stderr, flush=True)
        self.last = count["done"], count["failed"]


def execute(runs, folder, workers=None, retry_failed=False, shard=(1, 1), keep_checkpoints=True, progress=None):
    """Do the runs that have not been done in `folder`, and wait for those that others are doing there.

    workers: processes of one thread each, None for one per GPU, or per core where there is none; 0: in this process.
    shard: (i, n), only the i-th of n equal parts. keep_checkpoints: of runs that are done. progress: called now and then
    with what is known of each run, a list of dicts. Returns {id: that dict}. Raises Stopped on SIGTERM or ctrl-C, and
    CannotWrite: in both cases the same call goes on.
    """
    runs = list({run.id: run for run in runs}.values())[shard[0] - 1 :: shard[1]]
    board, known, progress = Board(folder), {}, progress or Progress()
    retry = {run.id: found["attempt"] for run in runs * retry_failed if (found := board.look(run))["state"] == "failed"}

    def tell():
        known.update((run.id, board.look(run)) for run in runs if known.get(run.id, {}).get("state") != "done")
        progress([known[run.id] for run in runs])
        return sum(not ended(known[run.id], retry.get(run.id)) for run in runs)

    def stop(*_):
        raise KeyboardInterrupt

    processes, handler = [], signal.signal(signal.SIGTERM, stop)
    try:
        left, deaths = tell(), 0
        if workers == 0:
            work(runs, folder, retry, keep_checkpoints, tell)
        elif left:
            workers = workers or default_workers(runs)
            orders = [(run.script, run.given) for run in runs], board.folder, retry, keep_checkpoints
            processes += [start(index, *orders) for index in range(min(workers, left))]
        while any((status := process.poll()) != 0 for process in processes):
            time.sleep(0.5)
            before, left = left, tell()
            for index, process in enumerate(processes):
                status = process.poll()
                deaths = 0 if left < before else deaths + (status is not None and status < 0)
                if status == FULL:
                    raise CannotWrite(
                        f"{folder} cannot be written: is the disk full? {left} runs are left; "
                        "make room, and the same command goes on"
                    )
                if status == FRESH or status is not None and status < 0 and deaths <= 2 * DEATHS:
                    processes[index] = start(index, *orders)
                elif status:
                    raise UserError(f"a worker ended with status {status}; see what it says above")
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
        signal.signal(signal.SIGTERM, handler)
        if getattr(progress, "terminal", False):
            print(file=sys.stderr)
    if left := tell():
        raise Stopped(f"stopped with {left} runs left; the same command goes on")
    return known


if __name__ == "__main__":
    worker()
