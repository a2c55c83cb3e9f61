"""The compilers behind the loops of fuse.py: C by ctypes, Triton by its own just-in-time compiler.

The C compiler is $CC, or cc, gcc or clang on the PATH, or the one in the Python package ziglang. What it makes is kept
on disk, in $MADA_CACHE or ~/.cache/mada, so that the next process starts at once. A file's name is a hash of everything
it depends on: the source, the compiler, its flags and the machine's instructions. Files appear whole, by renaming. If
others can write to the folder, or this process cannot, this process uses a temporary one.
"""

import atexit
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .codegen import BLOCK, WARPS, Unavailable, print_c, print_triton

if TYPE_CHECKING:
    from .fuse import Loop

FLAGS = ["-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")  # by default compilers use half of such vectors


@functools.cache
def temporary() -> Path:
    """A folder that is removed when this process ends, but not when a forked child does."""
    folder, owner = Path(tempfile.mkdtemp(prefix="mada-")), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


def cache() -> Path:
    """The folder of compiled loops. Raises OSError if others can write to it."""
    path = Path(os.environ.get("MADA_CACHE") or Path.home() / ".cache" / "mada")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise OSError(f"others can write to {path}")
    return path


def folders() -> Iterator[Path]:
    """Where compiled loops may be kept, best first."""
    try:
        yield cache()
    except (OSError, RuntimeError):  # there is no home, or it is not writable
        pass
    yield temporary()


@functools.cache
def machine() -> str:
    """What determines the instructions of -march=native."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def compiler() -> list[str]:
    """The command of a C compiler, a list. Raises Unavailable."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise Unavailable("no C compiler on the PATH; install one, or run `pip install ziglang`")


def fingerprint(command: list[str]) -> object:
    """What distinguishes this compiler from another or a newer one, without running it."""
    if "ziglang" in command:
        from importlib.metadata import version

        return version("ziglang")
    path = os.path.realpath(shutil.which(command[0]))
    return path, os.stat(path).st_size, os.stat(path).st_mtime_ns


@functools.cache
def announce(message: str) -> None:
    """Say what takes so long, once."""
    logging.getLogger("mada").warning(message)


def make(command: list[str], source: str, path: Path) -> None:
    """Compile `source` to the library `path`, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
        text, library = Path(folder, "loop.c"), Path(folder, "loop.so")
        text.write_text(source)
        subprocess.run(
            [*command, *FLAGS, str(text), "-o", str(library), "-lm"],
            capture_output=True,
            text=True,
            errors="replace",  # a compiler may speak in another encoding
            check=True,
        )
        with open(library, "rb") as file:
            os.fsync(file.fileno())  # or a power cut may leave a part of it under the final name
        os.replace(library, path)


@functools.cache
def compile_c(source: str) -> Callable:
    """The function `run` of a C source: from the cache, or compiled now. Raises Unavailable."""
    command = compiler()
    name = hashlib.sha256(repr([source, command, fingerprint(command), FLAGS, machine()]).encode()).hexdigest() + ".so"
    problem = None
    for folder in folders():
        path = folder / name
        try:
            if path.exists():
                try:
                    return ctypes.CDLL(str(path)).run
                except (OSError, AttributeError):  # damaged: make it again
                    pass
            if "ziglang" in command:
                announce("compiling the optimizer's loops with ziglang, once on this machine: up to a minute")
            make(command, source, path)
            return ctypes.CDLL(str(path)).run
        except (OSError, subprocess.CalledProcessError) as error:
            problem = error
    text = (getattr(problem, "stderr", None) or str(problem)).strip()
    raise Unavailable(f"{command[0]} fails: {(text or 'it says nothing').splitlines()[0]}") from problem


@functools.cache
def threads(number: int) -> ThreadPoolExecutor:
    """Threads that run loops in addition to the calling one."""
    return ThreadPoolExecutor(number, thread_name_prefix="mada")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.cache_clear)  # a child has none of its parent's threads


def build_c(loop: "Loop", dtypes: Sequence[torch.dtype]) -> Callable:
    """A Loop over CPU tensors of these dtypes: bind(table, address, scalars, sums per chunk) -> run()."""
    run = compile_c(print_c(loop, dtypes))

    def bind(table, address, scalars, sums):
        chunks, first = len(table), ctypes.c_int64(0)
        whole = (chunks, table.data_ptr(), address.data_ptr(), address.shape[1])
        whole = [ctypes.c_int64(x) for x in (*whole, scalars.data_ptr(), scalars.shape[1], sums.data_ptr())]

        def call():
            number = min(torch.get_num_threads(), chunks)  # waking a thread costs more than a small chunk
            stride = ctypes.c_int64(number)
            pool = threads(torch.get_num_threads() - 1) if number > 1 else None
            others = [pool.submit(run, ctypes.c_int64(k), stride, *whole) for k in range(1, number)]
            run(first, stride, *whole)
            for other in others:
                other.result()

        return call

    return bind


@functools.cache
def compile_triton(source: str) -> Callable:
    """The kernel `run` of a Triton source, which Triton reads from a file. Raises Unavailable."""
    if importlib.util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    name = f"loop_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = temporary() / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def build_triton(loop: "Loop", dtypes: Sequence[torch.dtype]) -> Callable:
    """A Loop over GPU tensors of these dtypes: bind(table, address, scalars, sums per chunk) -> run().

    bind raises Unavailable if Triton cannot compile: it tries the kernel on a chunk of no elements.
    """
    run = compile_triton(print_triton(loop, dtypes))

    def bind(table, address, scalars, sums):
        widths, nothing = (address.shape[1], scalars.shape[1]), table.new_zeros(1, 3)

        def call(table=table):
            with torch.cuda.device_of(table):  # Triton launches on the current device
                run[(len(table),)](table, address, widths[0], scalars, widths[1], sums, BLOCK=BLOCK, num_warps=WARPS)

        try:
            call(nothing)
        except Exception as error:  # whatever Triton, its C compiler and its linker may raise
            raise Unavailable(
                f"Triton cannot compile, for which it needs a C compiler and Python.h: {type(error).__name__}"
            ) from error
        return call

    return bind
