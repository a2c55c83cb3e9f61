"""Elementwise functions as one loop over all tensors of a step.

An optimizer step moves a dozen numbers per parameter and does a hundred operations on them. In eager PyTorch each of
these operations is a pass over memory; here all of them are one pass. A function of 0-D tensors is traced once, its
derivatives included, into a list of scalar operations, which codegen.py prints as the body of a loop over any number of
tensors: one call, no intermediate tensors, no recompilation when a value changes. Where no compiler is to be had, the
same trace runs operation by operation, on slices that fit the cache.
"""

import math
import warnings
from functools import lru_cache

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from .codegen import Unavailable, build_c, build_triton, compute_dtype

CHUNK = (
    65_536  # elements of one tensor that one thread, or one block of a GPU, takes through the loop; the eager slice too
)


@lru_cache
def warn_once(message):
    warnings.warn(message, stacklevel=2)


def is_dense(row):
    """Whether the tensors of a row fill their memory without gaps and in one order, so that one index serves all."""
    x = row[0]
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return span == x.numel() and all(y.stride() == x.stride() for y in row)


class Loop:
    """An elementwise function, run in place over rows of tensors.

    function(*tensors, *scalars) -> new values of the tensors `written`, summands: two lists of 0-D tensors.
    tensors, scalars: names of the function's arguments; written: some of the tensors.
    """

    def __init__(self, function, tensors, scalars, written):
        self.tensors, self.scalars, self.written = tuple(tensors), tuple(scalars), tuple(written)
        arguments = [torch.full((), 0.5, dtype=torch.float64) for _ in self.tensors + self.scalars]
        self.trace = make_fx(torch.func.functionalize(lambda *x: [y for part in function(*x) for y in part]))(
            *arguments
        )
        self.trace.graph.eliminate_dead_code()
        self.trace.recompile()
        self.n_sums = len(self.trace.graph.output_node().args[0]) - len(self.written)
        self.built, self.chunks = {}, (None, None, None)

    def __call__(self, rows, scalars):
        """rows: one tuple of tensors per parameter, of one shape; scalars: (rows, len(self.scalars)) float64.

        Writes the new values and returns the summands added up over the elements of each row, (rows, sums) float64.
        """
        sums = torch.zeros(len(rows), self.n_sums, dtype=torch.float64, device=scalars.device)
        kinds = {}
        for i, row in enumerate(rows):
            if row[0].numel():
                kinds.setdefault((row[0].device, tuple(x.dtype for x in row), is_dense(row)), []).append(i)
        for (device, dtypes, dense), members in kinds.items():
            run = dense and self.build(device.type, dtypes) or self.run_eagerly
            if len(members) == len(rows) and device == scalars.device:
                return run(rows, scalars)
            sums[members] = run([rows[i] for i in members], scalars[members].to(device)).to(sums.device)
        return sums

    def build(self, device_type, dtypes):
        """The compiled loop for tensors of these dtypes; None where it cannot be had, after saying so once."""
        key = device_type, dtypes
        if key not in self.built:
            builder = {"cpu": build_c, "cuda": build_triton}.get(device_type)
            try:
                self.built[key] = builder and self.runner(builder(self, dtypes))
            except Unavailable as reason:
                warn_once(f"optimizer steps run unfused, several times slower: {reason}")
                self.built[key] = None
        return self.built[key]

    def runner(self, loop):
        """loop(chunk table, pointers, scalars, partial sums) as a function of rows and scalars."""

        def run(rows, scalars):
            sizes = tuple(row[0].numel() for row in rows)
            if (scalars.device, sizes) != self.chunks[0]:
                table = [(i, start, min(CHUNK, n - start)) for i, n in enumerate(sizes) for start in range(0, n, CHUNK)]
                self.chunks = (
                    (scalars.device, sizes),
                    torch.tensor(table, device=scalars.device),
                    torch.tensor([math.ceil(n / CHUNK) for n in sizes], device=scalars.device),
                )
            _, table, counts = self.chunks
            pointers = torch.tensor([x.data_ptr() for row in rows for x in row])
            if scalars.is_cuda:  # from pinned memory, without waiting
                pointers = pointers.pin_memory().to(scalars.device, non_blocking=True)
            partial = torch.empty(len(table), self.n_sums, dtype=torch.float64, device=scalars.device)
            loop(table, pointers, scalars.contiguous(), partial)
            return torch.segment_reduce(partial, "sum", lengths=counts, axis=0, unsafe=True) if self.n_sums else partial

        return run

    def run_eagerly(self, rows, scalars):
        """The trace, operation by operation; intermediate results are a slice long."""
        sums = torch.zeros(len(rows), self.n_sums, dtype=torch.float64, device=scalars.device)
        for row, values, total in zip(rows, scalars, sums, strict=True):
            dtype, values = compute_dtype([x.dtype for x in row]), values.unbind()
            flat = [x.as_strided((x.numel(),), (1,)).split(CHUNK) for x in row] if is_dense(row) else [[x] for x in row]
            for part in zip(*flat, strict=True):
                results = self.trace(*(x.to(dtype) for x in part), *values)
                for name, value in zip(self.written, results, strict=False):
                    part[self.tensors.index(name)].copy_(value)
                for k, summand in enumerate(results[len(self.written) :]):
                    total[k] += summand.sum(dtype=torch.float64) if summand.dim() else summand * part[0].numel()
        return sums
