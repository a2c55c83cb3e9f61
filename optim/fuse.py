"""Elementwise functions as one loop over all tensors of a step.

An optimizer step moves a dozen numbers per parameter and does a hundred operations on them. In eager PyTorch each of
these operations is a pass over memory; here all of them are one pass. A function of 0-D tensors is traced once, its
derivatives included, into a list of scalar operations, which codegen.py prints as the body of a loop over any number of
tensors: one call, no intermediate tensors, no recompilation when a value changes. Without a compiler, the same trace
runs operation by operation, on slices that fit the cache.
"""

import math
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .codegen import Unavailable, compute_dtype
from .compile import build_c, build_triton
from .trace import traced

BUILDERS = {"cpu": build_c, "cuda": build_triton}  # {type of device: what makes its loops}; others run unfused
CHUNK = 65_536  # elements of one tensor that one thread takes through the loop; also the slice of eager steps
GPU_CHUNK = 16_384  # and one block of a GPU: the 11M GPT has 660 of them, five for each multiprocessor of an H100


@lru_cache
def warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def to_device(values: list, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """A list of numbers as a tensor; on a GPU from pinned memory, without waiting."""
    kind = {torch.int64: "q", torch.float64: "d"}[dtype]
    if not values:
        return torch.empty(0, dtype=dtype, device=device)
    x = torch.frombuffer(array(kind, values), dtype=dtype)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def segment_sums(x: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive rows of a matrix, `lengths` of them each: (n, k), (segments,) -> (segments, k).

    In one dimension: in two, a GPU gives each segment and column to a single thread.
    """
    flat = x.t().reshape(-1)
    return torch.segment_reduce(flat, "sum", lengths=lengths.repeat(x.shape[1]), unsafe=True).view(x.shape[1], -1).t()


def is_dense(row: Sequence[Tensor]) -> bool:
    """Whether the tensors of a row fill their memory without gaps and in one order, so that one index serves all."""
    x, strides = row[0], row[0].stride()
    if not x.is_contiguous():
        span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides, strict=True))
        if span != x.numel():
            return False
    wide = [i for i, size in enumerate(x.shape) if size > 1]  # in others a stride means nothing: 1 x 1 convolutions
    return all(y.stride(i) == strides[i] for y in row for i in wide)


class Loop:
    """An elementwise function, run in place over rows of tensors.

    function(*tensors, *scalars) -> new values of the tensors `written`, summands: two lists of 0-D tensors.
    tensors, scalars: names of the function's arguments; written: some of the tensors.
    guarded: if the first scalar is 0, nothing is written and the sums are 0.
    Raises ValueError if the function is not elementwise.
    """

    def __init__(
        self,
        function: Callable,
        tensors: Iterable[str],
        scalars: Iterable[str],
        written: Iterable[str],
        guarded: bool = False,
    ) -> None:
        self.tensors, self.scalars, self.written = tuple(tensors), tuple(scalars), tuple(written)
        self.guarded = guarded
        count = len(self.tensors) + len(self.scalars)
        self.trace = traced(lambda *x: [y for part in function(*x) for y in part], count)
        self.n_sums = len(self.trace.graph.output_node().args[0]) - len(self.written)
        self.built = {}

    def __call__(self, rows: "Rows | Sequence[Sequence[Tensor]]", scalars: Tensor) -> Tensor:
        """rows: Rows, or tuples of tensors of one shape, of which the first len(self.tensors) are this loop's;
        scalars: (rows, at least len(self.scalars)) float64.

        Writes the new values and returns the summands added up over the elements of each row, (rows, sums) float64.
        """
        rows = rows if isinstance(rows, Rows) else Rows(rows)
        if len(rows.kinds) == 1 and len(rows.kinds[0].members) == len(rows) and rows.kinds[0].device == scalars.device:
            return rows.kinds[0].run(self, scalars)
        sums = torch.zeros(len(rows), self.n_sums, dtype=torch.float64, device=scalars.device)
        for kind in rows.kinds:
            index, own = kind.own(scalars)
            sums.index_copy_(0, index, kind.run(self, own).to(sums.device))
        return sums

    def bind(self, device_type: str, dtypes: tuple[torch.dtype, ...], *tables: Tensor) -> Callable[[], None] | None:
        """The compiled loop for tensors of these dtypes as a call without arguments, which works on these tables; None,
        with one warning, if it cannot be built."""
        key = device_type, dtypes
        try:
            if key not in self.built:
                if device_type not in BUILDERS:
                    raise Unavailable(f"there are no loops for {device_type}")
                self.built[key] = BUILDERS[device_type](self, dtypes)
            return self.built[key] and self.built[key](*tables)
        except Unavailable as reason:
            warn_once(f"optimizer steps run unfused, several times slower: {reason}")
            self.built[key] = None

    def run_eagerly(self, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """The trace, operation by operation. tensors: of one shape; values: the scalars, 0-D. Returns the summands."""
        tensors, values = tensors[: len(self.tensors)], values[: len(self.scalars)]
        dtype = compute_dtype([x.dtype for x in tensors])
        results = self.trace(*(x.to(dtype) for x in tensors), *values)
        written = [tensors[self.tensors.index(name)] for name in self.written]
        summands = [x.expand_as(tensors[0]) for x in results[len(written) :]]
        if self.guarded:
            ok = (values[0] != 0).to(tensors[0].device)
            if ok.device.type == "cpu" and not ok:  # looking costs nothing here
                return [torch.zeros_like(x) for x in summands]
            results = [torch.where(ok, value, old) for value, old in zip(results, written, strict=False)]
            summands = [torch.where(ok, x, 0.0) for x in summands]
        for old, value in zip(written, results, strict=False):
            old.copy_(value)
        return summands


class Rows:
    """Tuples of tensors, one per parameter and of one shape each, that loops run over again and again.

    Loops may take fewer tensors and scalars than there are: the first ones. The first tensor of each row, the gradient,
    may be replaced by another of its kind; all others must stay where they are in memory.
    """

    def __init__(self, rows: Iterable[Sequence[Tensor]]) -> None:
        self.rows = [list(row) for row in rows]
        kinds = {}
        for i, row in enumerate(self.rows):
            if row[0].numel():
                kinds.setdefault((row[0].device, tuple(x.dtype for x in row), is_dense(row)), []).append(i)
        self.kinds = [Kind(self.rows, members, *kind) for kind, members in kinds.items()]

    def __len__(self) -> int:
        return len(self.rows)

    def take_first(self, tensors: Sequence[Tensor | None]) -> None:
        """Hold these tensors as the first ones, one per row, or None until they are needed again."""
        for row, x in zip(self.rows, tensors, strict=True):
            row[0] = x

    def replace_first(self) -> None:
        """Read the addresses of the first tensors again."""
        for kind in self.kinds:
            kind.replace_first()


class Kind:
    """Rows on one device, of the same dtypes, all of them dense or none."""

    def __init__(
        self,
        rows: list[list[Tensor]],
        members: list[int],
        device: torch.device,
        dtypes: tuple[torch.dtype, ...],
        dense: bool,
    ) -> None:
        self.rows, self.members, self.device, self.dtypes, self.dense = rows, members, device, dtypes, dense
        self.scalars_on = torch.device("cpu") if device.type == "mps" else device
        self.bound = {}  # loop -> the scalars that it is bound to, its call, the sums that this leaves
        self.taken = None, None, None  # scalars of all rows, which of them are of these, their copy
        if dense:
            sizes, chunk = [rows[i][0].numel() for i in members], GPU_CHUNK if device.type == "cuda" else CHUNK
            table = [(k, start, min(chunk, n - start)) for k, n in enumerate(sizes) for start in range(0, n, chunk)]
            self.table = to_device([x for entry in table for x in entry], device).view(-1, 3)
            self.counts = None
            if len(table) > len(sizes):
                self.counts = to_device([math.ceil(n / chunk) for n in sizes], device)
            addresses = [x.data_ptr() for i in members for x in rows[i]]
            self.addresses = to_device(addresses, device).view(len(members), -1)

    def own(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """The indices of these rows among all, and their scalars, copied to a place that stays the same."""
        source, index, copy = self.taken
        if source is not scalars:
            index = to_device(self.members, scalars.device)
            copy = scalars.new_empty(len(self.members), scalars.shape[1], device=self.scalars_on)
            self.taken = scalars, index, copy
        return index, copy.copy_(scalars.index_select(0, index), non_blocking=copy.is_cuda)

    def replace_first(self) -> None:
        if self.dense:
            self.addresses[:, 0] = to_device([self.rows[i][0].data_ptr() for i in self.members], self.device)

    def run(self, loop: Loop, scalars: Tensor) -> Tensor:
        """As Loop.__call__, for these rows; the next call may write over the sums."""
        bound, call, sums = self.bound.get(loop, (None, None, None))
        if bound is not scalars:
            call, dense = None, scalars.contiguous()
            if self.dense:
                chunks = len(self.table) if loop.n_sums else len(self.members)
                sums = torch.empty(chunks, loop.n_sums, dtype=torch.float64, device=self.scalars_on)
                kind = self.device.type, self.dtypes[: len(loop.tensors)]
                call = loop.bind(*kind, self.table, self.addresses, dense, sums)
            if not call:
                return self.run_eagerly(loop, scalars)
            if dense is scalars:
                self.bound[loop] = scalars, call, sums
        call()
        return sums if self.counts is None or not loop.n_sums else segment_sums(sums, self.counts)

    def run_eagerly(self, loop: Loop, scalars: Tensor) -> Tensor:
        """Operation by operation: on slices of large tensors, and on many small ones with the same scalars at once."""
        precision = torch.float32 if self.device.type == "mps" else torch.float64  # all that it has
        sums = torch.zeros(len(self.members), loop.n_sums, dtype=torch.float64, device=scalars.device)
        for first, last in self.packs(scalars):
            values = scalars[first].to(precision).unbind()
            rows = [self.rows[i][: len(loop.tensors)] for i in self.members[first:last]]
            if self.dense:
                rows = [[x.as_strided((x.numel(),), (1,)) for x in row] for row in rows]
            if last == first + 1:
                for part in zip(*(x.split(CHUNK) for x in rows[0]), strict=True) if self.dense else rows:
                    for k, summand in enumerate(loop.run_eagerly(part, values)):
                        sums[first, k] += summand.sum(dtype=precision).to(sums.device)
                continue
            whole = [torch.cat(column) for column in zip(*rows, strict=True)]
            lengths = [len(row[0]) for row in rows]
            for k, summand in enumerate(loop.run_eagerly(whole, values)):
                summand = summand.to(sums.device, precision)
                sums[first:last, k] = torch.segment_reduce(summand, "sum", lengths=torch.tensor(lengths), unsafe=True)
            for name in loop.written:
                column = loop.tensors.index(name)
                torch._foreach_copy_([row[column] for row in rows], whole[column].split(lengths))
        return sums

    def packs(self, scalars: Tensor) -> Iterator[tuple[int, int]]:
        """[first, last) of rows to take at once: rows with the same scalars, where comparing them does not wait."""
        sizes = [self.rows[i][0].numel() for i in self.members]
        alike = [False] * len(sizes)
        if self.dense and scalars.device.type == "cpu" and self.device.type == "cpu":
            alike = [False, *(scalars[1:] == scalars[:-1]).all(1).tolist()]
        first, elements = 0, 0
        for i, (size, same) in enumerate(zip(sizes, alike, strict=True)):
            if i > first and not (same and elements + size <= CHUNK):
                yield first, i
                first, elements = i, 0
            elements += size
        yield first, len(sizes)
