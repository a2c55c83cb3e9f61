"""What a run runs on: the device that a setting names, the hardware it is, and the processes that share the work."""

import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from threading import Event, current_thread, main_thread

import torch
import torch.distributed as dist

import metrics
from optim.shards import is_sharded
from settings import UserError, one_line


def resolve_device(device: str) -> str:
    """ "auto" -> the first of "cuda", "mps" and "cpu" that exists; any other name unchanged, once it has been tried.

    Raises UserError if the device cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device).zero_().item()
    except (RuntimeError, AssertionError, ImportError, ValueError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"device={device!r} cannot be used here: {reason}") from None
    return device


def hardware(device: str) -> str:
    """A device in words: a GPU's name, or a CPU's and its number of cores."""
    if device != "cpu":
        return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # not on macOS
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def here(device: str) -> dict:
    """What a run's header says of where it runs: commit, version of torch, hardware and CPU threads."""
    return {
        "git": metrics.git_revision(),
        "torch": torch.__version__,
        "device": hardware(device),
        "cpu_threads": torch.get_num_threads(),
    }


def check_memory(size: int, what: str) -> None:
    """Raises UserError if `size` bytes are more than all the memory of this machine. `what`: takes them, in words."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > there:
        raise UserError(f"{what} would take {size // 10**9:,} GB of memory; this machine has {there / 1e9:.0f} GB")


@contextmanager
def report_out_of_memory(
    advice: str = "a smaller micro_batch_size, or checkpoint_activations=True, takes less",
) -> Iterator[None]:
    """Turns an out-of-memory error, on host or device, into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # the CPU's allocator has no error of its own
        what = (str(error).strip() or "out of memory").splitlines()[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in what:
            raise
        raise UserError(f"there is not enough memory ({what}); {advice}") from error


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16, rather than emulating it several times more slowly."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_dtype(dtype: str, device_type: str) -> tuple[str, AbstractContextManager]:
    """The dtype of products and the context in which a model computes in it; "auto": bfloat16 on GPUs that have it."""
    if dtype == "auto":
        dtype = "float32" if device_type != "cuda" else "bfloat16" if has_bfloat16() else "float16"
    return dtype, nullcontext() if dtype == "float32" else torch.autocast(device_type, getattr(torch, dtype))


def resolve_compile(setting: bool | str, device: str) -> tuple[bool, str | None]:
    """The setting compile -> whether to compile the model, and in one line what keeps "auto" from it, or None.

    Raises UserError if it was asked for and does not work.
    """
    if not (setting if setting != "auto" else device.startswith("cuda")):
        return False, None
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
        return True, None
    except Exception as error:  # noqa: BLE001 whatever a missing compiler, Triton or driver raises
        problem = one_line(error)
    if setting != "auto":
        raise UserError(f"compile=True: torch.compile does not work here: {problem}")
    return False, problem


@contextmanager
def stop_signals() -> Iterator[Event]:
    """An Event that SIGTERM, ctrl-C, SIGUSR1 (SLURM's warning) and SIGHUP set inside the block: save and leave.

    SIGHUP stays ignored under nohup. Outside the main thread, to which Python gives signals, nothing sets it.
    """
    stop, before = Event(), {}
    if current_thread() is not main_thread():
        yield stop
        return
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:
            before[name] = signal.signal(name, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Processes:
    """The processes of a run, those of torchrun or this one alone. This is number `rank` of `ranks`, and has a device.

    device: the setting. Raises UserError if it cannot be used, or not by this many processes.
    """

    def __init__(self, device: str):
        try:
            self.ranks, self.rank, local_rank, local_ranks = (
                int(os.environ.get(name, default))
                for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
            )
        except ValueError as error:
            raise UserError(f"WORLD_SIZE, RANK and LOCAL_RANK are torchrun's, and must be numbers: {error}") from None
        if not 0 <= self.rank < self.ranks:
            raise UserError(f"RANK={self.rank} must be below WORLD_SIZE={self.ranks}, as torchrun sets them")
        if self.ranks > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            if local_ranks > (gpus := torch.cuda.device_count()):
                raise UserError(f"{local_ranks} processes but {gpus} GPUs on this machine: lower --nproc_per_node")
            device = f"cuda:{local_rank}"
        if local_ranks > 1 and device.startswith("cuda:") and device != f"cuda:{local_rank}":
            raise UserError(f"device={device!r} is one GPU, for {local_ranks} processes: leave it out")
        self.device = resolve_device(device)
        self.device_type = self.device.partition(":")[0]
        if self.device.startswith("cuda:"):
            torch.cuda.set_device(self.device)  # for whatever asks for the current one
        self.first = self.rank == 0  # the one that writes
        self.alone = local_ranks == self.ranks  # on one machine
        self.parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def join(self, timeout_minutes: int) -> None:
        """Wait for the other processes, at most this long, here and at every later exchange.

        Raises UserError if the environment does not say where they are to meet, or nobody is there.
        """
        if self.ranks > 1:
            timeout = timedelta(minutes=timeout_minutes)
            try:
                store, _, _ = next(dist.rendezvous("env://", self.rank, self.ranks, timeout=timeout))
            except (ValueError, dist.DistError) as error:
                raise UserError(
                    f"the environment says WORLD_SIZE={self.ranks}, but no exchange can be set up ({one_line(error)}): "
                    "start the processes with torchrun, or unset WORLD_SIZE"
                ) from None
            if self.alone:  # else torchrun's count may differ by node
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                store = dist.PrefixStore(f"attempt {attempt}", store)  # which still has the last one's addresses
            backend = "nccl" if self.device_type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.ranks, timeout=timeout)

    def share(self, batch_size: int, micro_batch_size: int | None) -> tuple[int, int]:
        """The micro-steps and the micro-batch of a batch = ranks x micro-steps x micro-batch.

        Raises UserError, naming what would divide it, if it cannot be divided so.
        """
        share, left = divmod(batch_size, self.ranks)
        micro = micro_batch_size or share or 1
        if left or share % micro:
            what, number = ("numbers of processes", batch_size) if left else ("micro_batch_size", share)
            raise UserError(
                f"batch_size={batch_size} cannot be divided over {self.ranks} processes and micro_batch_size={micro}; "
                f"valid {what}: {', '.join(str(n) for n in range(1, min(number, 10**6) + 1) if number % n == 0)}"
            )
        return share // micro, micro

    def on_device(self, x: torch.Tensor) -> torch.Tensor:
        """A CPU tensor on this process's device; a GPU copies it in the background."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device_type == "cuda" else x.to(self.device)

    def leave(self, error: type[BaseException] | None = None, *_: object) -> None:
        """End the exchange; takes what ExitStack.push hands on.

        After an error NCCL's is left as it is: its end waits for ranks that may be waiting in another exchange.
        """
        if dist.is_initialized() and not (error and dist.get_backend() == "nccl"):
            if dist.get_backend() == "gloo":
                # Freeing its group holds the GIL and waits for its thread, which needs the GIL to free the last
                # exchange's tensors: it gets it while this one sleeps.
                time.sleep(0.2)
            dist.destroy_process_group()

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a 0-D tensor over the processes. All of them call it; the tensor is overwritten."""
        return self.reduce(value, dist.ReduceOp.SUM).div(self.ranks).item()

    def most(self, *values: float) -> list[float]:
        """The largest of each value over the processes. All of them call it."""
        if self.ranks == 1:
            return list(values)
        return self.reduce(torch.tensor(values, dtype=torch.float32, device=self.device), dist.ReduceOp.MAX).tolist()

    def reduce(self, value, operation):
        if self.ranks > 1:
            dist.all_reduce(value, operation)
        return value

    def orphaned(self) -> bool:
        """Whether the torchrun that started this process has died, so that no one looks after it."""
        return self.parent is not None and os.getppid() != self.parent

    def check_equal(self, tensors: Iterable[torch.Tensor]) -> None:
        """Raises UserError naming the processes whose tensors differ from the others'. All of them call it.

        Compares whether all elements are finite, and torch.hash_tensor, the XOR of their bits: equal changes to two of
        them go unnoticed. Shards are not compared.
        """
        whole = [x.detach() for x in tensors if not is_sharded(x)]
        if self.ranks == 1 or not whole:
            return
        finite = torch.stack([x.isfinite().all() for x in whole]).all()
        hashes = torch.stack([torch.hash_tensor(x).view(torch.int64) for x in whole] + [finite.long()])
        everyone = [torch.empty_like(hashes) for _ in range(self.ranks)]
        dist.all_gather(everyone, hashes)
        everyone = [tuple(each.tolist()) for each in everyone]
        if len(set(everyone)) > 1:
            usual, times = Counter(everyone).most_common(1)[0]
            finite_ones = [each for each in everyone if each[-1]]
            if times * 2 <= self.ranks:  # no majority: trust who has numbers
                usual = finite_ones[0] if finite_ones else usual
            odd = [str(rank) for rank, each in enumerate(everyone) if each != usual]
            why = " (not finite)" if any(not each[-1] for each in everyone) else ""
            raise UserError(f"rank {', '.join(odd)} has other parameters or coefficients than the other ranks{why}")
