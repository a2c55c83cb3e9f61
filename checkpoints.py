"""Checkpoints of the training scripts: files of whole tensors and plain containers, whatever the number of processes.

OUT_DIR/ckpt_last.pt is the newest, ckpt_prev.pt the one before it, ckpt_best.pt that of the lowest validation loss; if
this is one of the other two, it is the same file under another name. A file is whole and on the disk before it gets its
name, so that a process may be killed, or a machine lose power, at any time. It is a zip file of torch.save, whose
checksums `read` checks.
"""

import contextlib
import errno
import io
import math
import os
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pickle import UnpicklingError

import torch
from filelock import FileLock, Timeout
from torch.utils._pytree import tree_leaves

import metrics
from settings import Setting, UserError, checked, first_rank, shortened

LAST, PREVIOUS, BEST, DAMAGED = "ckpt_last.pt", "ckpt_prev.pt", "ckpt_best.pt", "ckpt_damaged.pt"
TRAINING = ("model", "optimizer", "scaler", "iter", "best_val_loss", "config", "model_config", "data")  # of train.py
PLAIN = {  # what must be true of an entry, whichever script wrote it
    "iter": lambda x: type(x) is int and x > 0,
    "best_val_loss": lambda x: isinstance(x, float) and not math.isnan(x),
    **dict.fromkeys(("model", "optimizer", "scaler", "config", "model_config", "data"), lambda x: isinstance(x, dict)),
}


class Damaged(UserError):
    """A file that is not a complete checkpoint."""


# one process per folder


@contextlib.contextmanager
def hold(out_dir: str) -> Iterator[None]:
    """Make out_dir and keep every other process out of it inside the block. Raises UserError if one is using it.

    The kernel frees the lock when this process dies. Folders that were made here and are still empty at the end are
    removed.
    """
    if not first_rank():
        yield
        return
    path, made = os.path.join(out_dir, "train.lock"), []
    lock = FileLock(path, fallback_to_soft=False)
    with writing(out_dir):
        folder = os.path.abspath(out_dir)
        while not os.path.lexists(folder):
            made.append(folder)
            folder = os.path.dirname(folder)
        os.makedirs(out_dir, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            owner = ""
            with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
                owner = file.read()
            raise UserError(f"out_dir={out_dir!r} is in use by {owner or 'another process'}") from None
        with open(path, "w") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)  # a process that has opened it meanwhile sees that it has no name, and opens the next
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                os.rmdir(folder)


@contextlib.contextmanager
def writing(out_dir: str) -> Iterator[None]:
    """Around what writes into out_dir: an error of the system becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RecursionError, NotImplementedError) as error:  # names can be impossible, too
        reason = "it is a file" if isinstance(error, FileExistsError) else getattr(error, "strerror", None) or error
        raise UserError(f"out_dir={out_dir!r} cannot be written: {reason}") from error


# writing


def save(state: dict, out_dir: str, best: bool = False) -> None:
    """Write `state` as OUT_DIR/ckpt_last.pt, the former one becoming ckpt_prev.pt; with `best`, as ckpt_best.pt, too.

    Killed at any time, this leaves a ckpt_last.pt or a ckpt_prev.pt that is whole, and the best state so far as
    ckpt_best.pt. Raises UserError if it cannot be written; the former checkpoints are then still there.
    """
    with writing(out_dir):
        try:
            write(state, out_dir, best)
        except FileNotFoundError:  # the folder was removed under it
            write(state, out_dir, best)


def write(state, out_dir, best):
    """`save`, once. Raises OSError."""
    last, previous, champion = (os.path.join(out_dir, name) for name in (LAST, PREVIOUS, BEST))
    part = last + ".part"
    os.makedirs(out_dir, exist_ok=True)
    try:
        write_part(state, part)
        if best:  # first: a run that is killed here does the steps since ckpt_last.pt again, and gets here again
            rename_copy(part, champion)
            sync_folder(out_dir)
        if os.path.exists(last):
            rename_copy(last, previous)
        os.replace(part, last)
        sync_folder(out_dir)
    finally:
        for path in (part, champion + ".part", previous + ".part"):
            with contextlib.suppress(OSError):
                os.remove(path)


class Writer:
    """Saves in the background: one state at a time, in a thread that has finished when the block ends.

    The next call raises what `save` raised there; a block that ends with an error of its own passes it to `say`.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say, self.thread, self.writing = say, ThreadPoolExecutor(1, "checkpoint"), None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            self.say(str(error))
        finally:
            self.thread.shutdown()

    def wait(self) -> None:
        """Wait until what is being written is on the disk. Raises what `save` does."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raises what `save` has raised so far; does not wait."""
        if self.writing is not None and self.writing.done():
            self.wait()

    def save(self, state: dict, out_dir: str, best: bool = False) -> None:
        """`save` a state that does not change meanwhile."""
        self.wait()
        self.writing = self.thread.submit(save, state, out_dir, best)


def write_part(state, part):
    """torch.save to a new file, and sync it to the disk. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(part)  # of a process that was killed; were it a link, it would not be followed
    with open(part, "xb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer puts its own error in front of what the system said
            raise error.__context__ if isinstance(error.__context__, OSError) else error
        file.flush()
        os.fsync(file.fileno())


def rename_copy(source, target):
    """Give a file a second name, target, in one step. If the file system has no links, a copy gets the name."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(target + ".part")
    try:
        os.link(source, target + ".part")
    except OSError:
        shutil.copyfile(source, target + ".part")
        with open(target + ".part", "rb") as file:
            os.fsync(file.fileno())
    os.replace(target + ".part", target)


def sync_folder(folder):
    """Sync the names in a folder to the disk, if the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def clear(out_dir: str) -> None:
    """Remove the checkpoints of a run that is overwritten. Raises UserError."""
    with writing(out_dir):
        for name in (BEST, PREVIOUS, DAMAGED, LAST):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(out_dir, name))


# reading


def read(path: str, names: Iterable[str] = TRAINING) -> dict:
    """What `save` wrote under these names, on the CPU. Raises Damaged, or UserError if the system cannot read it."""
    try:
        with open(path, "rb") as file:
            content = file if os.path.getsize(path) else io.BytesIO()
            with zipfile.ZipFile(content) as archive:
                odd = [it.filename for it in archive.infolist() if it.external_attr or it.compress_size != it.file_size]
                if bad := archive.testzip() or next(iter(odd), None):  # torch takes an odd one for a folder
                    raise Damaged(f"{path} is damaged: the checksum of {bad} in it does not match")
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        found = {name: checkpoint[name] for name in names}
        for name, value in found.items():
            if name in PLAIN and not PLAIN[name](value):
                raise Damaged(f"{path} is not a checkpoint of this script: its {name} is invalid")
            if name in ("model", "optimizer") and any(
                isinstance(x, torch.Tensor) and x.isnan().any() for x in tree_leaves(value)
            ):
                raise Damaged(f"{path} is damaged: its {name} contains NaN, which no run saves")
        return found
    except UserError:
        raise
    except OSError as error:
        kind = Damaged if error.errno == errno.EINVAL else UserError  # it says that something in it is before its start
        raise kind(f"{path} cannot be read: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        raise Damaged(f"{path} is damaged, or not a checkpoint: empty, cut off, or not written by torch.save") from None
    except UnpicklingError:
        raise Damaged(f"{path} is not a checkpoint of this script: it contains other things than tensors") from None
    except KeyError as error:
        raise Damaged(f"{path} is not a checkpoint of this script: it has no {error}") from None
    except Exception as error:  # noqa: BLE001 a file may be wrong in more ways than torch.load has names for
        raise Damaged(f"{path} is not a checkpoint of this script ({type(error).__name__})") from None


def start(
    cfg: dict, given: Iterable[str], settings: dict[str, Setting], names: Iterable[str] = TRAINING
) -> tuple[dict | None, dict]:
    """Where a run starts, by its settings init_from, out_dir and overwrite: (checkpoint to resume or None, settings).

    A resumed run has its own settings, except for those in `given`, which must not contradict the kept ones. If its
    newest checkpoint is damaged, this says so, sets it aside, and takes the one before it. Raises UserError.
    """
    if cfg["overwrite"] and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "overwrite=True would delete the run at each restart by torchrun: leave --max-restarts out, or use "
            "--init_from=auto with a new --out_dir"
        )
    out_dir, mode = cfg["out_dir"], cfg["init_from"]
    found = [name for name in (LAST, PREVIOUS, BEST) if os.path.lexists(os.path.join(out_dir, name))]
    if mode == "auto":
        if cfg["overwrite"]:
            raise UserError("init_from='auto' resumes the run that overwrite=True would delete: leave one of them out")
        instead = getattr(given, "files", {}).get("init_from", "scratch")  # what a config file says
        mode = "resume" if found else instead if instead not in ("auto", "resume") else "scratch"
    if mode != "resume":
        if found and not cfg["overwrite"]:
            raise UserError(
                f"out_dir={out_dir!r} holds another run: resume it with --init_from=resume, name another "
                "--out_dir, or delete it with --overwrite=True"
            )
        if not cfg["overwrite"] and evaluations(out_dir) > 2:  # until then its first checkpoint may be being written
            raise UserError(
                f"out_dir={out_dir!r} holds the record of a run whose checkpoints are gone: name another --out_dir, or "
                "delete it with --overwrite=True"
            )
        return None, cfg | {"init_from": mode}
    if not found:
        raise UserError(
            f"init_from='resume': there is no {os.path.join(out_dir, LAST)}; start with --init_from=scratch, or name "
            "the --out_dir"
        )
    checkpoint = newest(out_dir, names)
    before = old_settings(checkpoint["config"], settings, checkpoint["path"])
    for name, setting in settings.items():
        had = before.get(name, setting.default)
        if setting.kept and name in given and cfg[name] != had:
            raise UserError(f"{name}={cfg[name]!r}: a resumed run keeps its {name}={had!r}; leave it out")
    theirs = {name: value for name, value in before.items() if name not in given and not settings[name].once}
    return checkpoint, cfg | {"init_from": mode} | theirs


def evaluations(out_dir):
    """How often the run whose record is in out_dir was evaluated after its start; 0 where there is no record."""
    try:
        _, records = metrics.read(out_dir)
    except (OSError, UserError):
        return 0
    return sum("val_loss" in record and record["iter"] > 0 for record in records)


def newest(out_dir, names):
    """The newest checkpoint that is whole, with its "path". Raises UserError, naming what else there is to resume."""
    problems = []
    there = [name for name in (LAST, PREVIOUS) if os.path.lexists(os.path.join(out_dir, name))]
    for name in there or [BEST]:  # a first save that was killed may have got as far as the best
        path = os.path.join(out_dir, name)
        try:
            checkpoint = read(path, names)
        except Damaged as error:
            problems.append(str(error))
            continue
        if first_rank() and problems:
            os.replace(os.path.join(out_dir, LAST), os.path.join(out_dir, DAMAGED))
            print(f"{problems[0]}; it is now {DAMAGED}, and the run resumes from {path}", file=sys.stderr)
        return checkpoint | {"path": path}
    best = os.path.join(out_dir, BEST)
    with contextlib.suppress(UserError):
        found = read(best, names)
        problems.append(f"{best}, of step {found['iter']}, is whole: copy it to {LAST} to resume from there")
    raise UserError("; ".join(problems or [f"there is no whole checkpoint in {out_dir}"]))


def old_settings(config, settings, path):
    """The settings in a checkpoint, each in its type. Those that no longer exist are dropped, with a note."""
    gone = {name: value for name, value in config.items() if name not in settings and value is not None}
    if gone and first_rank():
        print(f"{path} has settings that no longer exist: {', '.join(map(shortened, gone))}", file=sys.stderr)
    return {name: checked(settings, name, value, path) for name, value in config.items() if name in settings}


@contextlib.contextmanager
def fitting(path: str) -> Iterator[None]:
    """Around what loads a checkpoint's content: whatever does not fit becomes a UserError of one line."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 torch has no error of its own for what does not fit
        what = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])  # torch's first says little
        raise UserError(f"{path} does not fit the run that it describes: {what}") from None
