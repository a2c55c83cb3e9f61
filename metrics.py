"""The record of a run: out_dir/metrics.jsonl, a progress bar on a terminal or plain lines elsewhere, wandb on request.

The file is JSON lines: a header, then a dict per logged step. Numbers that are not finite, which JSON lacks, are the
strings "NaN", "Infinity" and "-Infinity"; `read` makes them floats again.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from tqdm import tqdm

from settings import UserError, one_line

FILE = "metrics.jsonl"
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def git_revision() -> str | None:
    """Commit of this checkout, with "+" after it if files differ from it; None outside a git checkout."""
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--exclude=*"]
    try:
        done = subprocess.run([*command, "--abbrev=40", "--dirty=+"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def to_line(record: dict) -> bytes:
    """A record as a line of JSON."""
    try:
        text = json.dumps(record, allow_nan=False)
    except ValueError:  # Python's own JSON has the names that become strings here
        text = json.dumps(
            mapped(lambda x: json.dumps(x) if isinstance(x, float) and not math.isfinite(x) else x, record)
        )
    return text.encode() + b"\n"


def from_line(line: bytes) -> dict:
    """Undoes to_line; older files have bare NaN and Infinity. Raises ValueError if it is not a JSON object."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 the line is wrong, not its type
    if b"NaN" in line or b"Infinity" in line:
        record = mapped(lambda x: NOT_FINITE.get(x, x) if isinstance(x, str) else x, record)
    return record


def mapped(change, x):
    """A JSON value with every leaf changed."""
    if isinstance(x, dict):
        return {key: mapped(change, value) for key, value in x.items()}
    return [mapped(change, value) for value in x] if isinstance(x, list | tuple) else change(x)


def lines(out_dir):
    """The complete lines of a run's file; a killed run may leave half a line at the end."""
    with open(os.path.join(out_dir, FILE), "rb") as file:
        return [line for line in file if line.endswith(b"\n")]


def read(out_dir: str) -> tuple[dict, list[dict]]:
    """A run's metrics.jsonl -> header, records: what the run is, and one dict per logged step.

    Raises OSError if there is none, and UserError naming the line that is damaged.
    """
    found = []
    for number, line in enumerate(lines(out_dir), 1):
        try:
            found.append(json.loads(line) if number == 1 else from_line(line))
            if not isinstance(found[0], dict) or number > 1 and type(found[-1].get("iter")) is not int:
                raise ValueError("not a record")
        except (ValueError, RecursionError):
            path = os.path.join(out_dir, FILE)
            raise UserError(f"{path}: line {number} is damaged: not a record of a run") from None
    if not found:
        raise UserError(f"{os.path.join(out_dir, FILE)} is empty: the run in {out_dir} has logged nothing")
    return found[0], found[1:]


def read_what_there_is(out_dir, last):
    """(header, records up to step `last`, number of damaged lines) of a file that may be damaged or missing.

    Raises UserError if the system cannot read it.
    """
    header, records, damaged = {}, [], 0
    try:
        for number, line in enumerate(lines(out_dir)):
            try:
                record = from_line(line)
                if number == 0:
                    header = json.loads(line)
                elif 0 <= record["iter"] <= last and (not records or record["iter"] > records[-1]["iter"]):
                    records.append(record)
            except (ValueError, TypeError, KeyError, RecursionError):
                damaged += 1
    except FileNotFoundError:  # only the checkpoint was copied here
        pass
    except OSError as error:  # the record may be whole, and is not to be replaced
        raise UserError(f"{os.path.join(out_dir, FILE)} cannot be read: {error.strerror or error}") from None
    return header, records, damaged


class Metrics:
    """Writes the record of one run. A resumed run keeps the lines up to its checkpoint and appends to them.

    header: dict, the first line, without "total"; start: iter of the checkpoint that is resumed (0: a new run); total:
    steps in all; others: what else gets the records, see `trackers`. Raises UserError if the file cannot be written.
    Later, what cannot be written waits until it can; if no one reads what is printed, or a tracker fails, the run
    continues.
    """

    def __init__(self, out_dir: str, header: dict, start: int, total: int, others: list["Tracker"] | None = None):
        self.path, self.pending, self.notes, self.others = os.path.join(out_dir, FILE), b"", [], list(others or ())
        records, damaged, header = [], 0, header | {"total": total}
        if start:
            before, records, damaged = read_what_there_is(out_dir, start)
            resumed = before.get("resumed_at", [])
            header = header | {"resumed_at": [*(resumed if isinstance(resumed, list) else []), start]}
        try:
            os.makedirs(out_dir, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path + ".part")
            with open(self.path + ".part", "xb") as file:
                file.writelines(map(to_line, [header, *records]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.path + ".part", self.path)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 closed by close()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(self.path + ".part")
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}") from None
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=total, dynamic_ncols=True, unit="step") if terminal else None
        if damaged:
            self.say(f"{self.path}: {damaged} damaged lines are left out")

    def say(self, line: str) -> None:
        """Print a line. Once stdout cannot be written, this is noted in the record, and nothing is printed any more."""
        try:
            if sys.stdout is None:
                raise OSError("it is closed")
            (self.bar.write if self.bar is not None else print)(line)
            sys.stdout.flush()
        except (OSError, ValueError) as error:  # closed, full, or without a reader
            if not isinstance(sys.stdout, Silence):
                self.notes.append(f"stdout cannot be written: {getattr(error, 'strerror', None) or error}")
                if sys.stdout is sys.__stdout__ is not None:  # its buffer must not be an error at exit
                    with contextlib.suppress(OSError, ValueError):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.stdout = Silence()
                with contextlib.suppress(OSError, ValueError):
                    print(f"{self.notes[-1]}; the run continues, see {self.path}", file=sys.stderr, flush=True)

    def write(self, record: dict) -> None:
        """Write one logged step: a dict of numbers and nested dicts, with "iter"."""
        words = [f"{name} {record[name]:.4f}" for name in ("train_loss", "val_loss") if name in record]
        shown = record.get("coefficients") or record.get("x") or {}  # x: of scripts/convex.py
        words += [f"{name} {value:.3f}" for name, value in shown.items()]
        words += [f"skipped {record['skipped_steps']}"] if record.get("skipped_steps") else []
        if self.bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self.bar.set_postfix_str("  ".join(words))
                self.bar.update(record["iter"] - self.bar.n)
        if self.bar is None or "val_loss" in record:
            speed = [f"{record['step_ms']:.0f} ms"] if "step_ms" in record else []
            self.say(f"step {record['iter']:6d}  " + "  ".join(words + speed))
        notes, self.notes = self.notes, []
        self.append(record | ({"notes": notes} if notes else {}))
        for tracker in list(self.others):
            self.tell(tracker, tracker.log, record)

    def tell(self, tracker, call, *arguments):
        """Call a tracker; one that fails is called no more, since the run is worth more than its copy."""
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 each has errors of its own kinds
            self.others.remove(tracker)
            self.say(f"{tracker.name} failed and was turned off; the run continues: {one_line(error)}")

    def append(self, record):
        """Append a line and those that waited to the file; if the disk is full, none of them, and they wait."""
        waited, self.pending = bool(self.pending), self.pending + to_line(record)
        size = os.fstat(self.file.fileno()).st_size
        try:
            if self.file.write(self.pending) != len(self.pending):
                raise OSError("the disk is full")
            self.pending = b""
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.file.fileno(), size)
            if not waited:
                reason = error.strerror or error
                self.say(f"{self.path} cannot be written: {reason}; the run continues to its next checkpoint")

    def sync(self) -> None:
        """Sync the file to the disk, before a checkpoint is."""
        with contextlib.suppress(OSError):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
        if self.bar is not None:
            self.bar.close()
        for tracker in list(self.others):
            self.tell(tracker, tracker.close)


class Tracker(NamedTuple):
    """What else gets the records of a run."""

    name: str
    log: Callable[[dict], None]
    close: Callable[[], None]


def trackers(out_dir: str, header: dict, start: int, wandb: dict | None, tensorboard: bool) -> list[Tracker]:
    """Weights & Biases and TensorBoard, if they are asked for. Raises UserError if one of them does not work.

    wandb: arguments of wandb.init, or None. TensorBoard's event files go to out_dir; events of a run that is
    overwritten, and this run's own after step `start`, are hidden.
    """
    found = []
    if wandb is not None:
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        with importing("wandb"):
            import wandb as package

            run = package.init(config=header, mode=mode, **wandb)
        found.append(Tracker("wandb", lambda record: run.log(record, step=record["iter"]), run.finish))
    if tensorboard:
        with importing("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            files = SummaryWriter(out_dir, purge_step=start + 1 if start else 0)

        def log(record):
            for name, value in numbers(record):
                files.add_scalar(name, value, record["iter"])

        found.append(Tracker("tensorboard", log, files.close))
    return found


@contextlib.contextmanager
def importing(package):
    """Around the start of a tracker: any error becomes a UserError that names its setting."""
    try:
        yield
    except ImportError:
        raise UserError(f"{package}_log=True: {package} is not installed; pip install {package}") from None
    except Exception as error:  # noqa: BLE001 each has errors of its own kinds
        raise UserError(f"{package}_log=True: {one_line(error)}") from None


def numbers(record, prefix=""):
    """(name, number) for all numbers of a record except its step; nested ones as group/name."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "iter":
            yield prefix + name, value


class Silence:
    """Replaces a stdout that can no longer be written to."""

    def write(self, text):
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


class NullMetrics:
    """Stands in for Metrics on ranks that do not write."""

    def say(self, line: str) -> None: ...
    def write(self, record: dict) -> None: ...
    def sync(self) -> None: ...
