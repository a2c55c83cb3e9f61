"""Reading prepared token files: what train.py and scripts/evaluate.py see of a data set.

data/<dataset>/ has <split>.bin, the ids of its tokens in a row, and meta.json, which is written last and says

    counts        {split: number of tokens}
    dtype         of an id in the .bin files: "uint16"
    sha256        {split: hex digest of <split>.bin}; the names of .npy files are there, too
    sampled       {split: hex digest of 64 pages of it}, which `split` compares
    vocab_size    every id is below it: checked when the files were written
    tokenizer     "gpt2", "bytes" or "char" (data/tokenizers.py); with "char" comes chars, the characters in id order
    documents, canonical, classes    of some: how many; whether the text is the known one; the names of labels
    source        where the text is from, in words; revision and source_sha256 say it exactly, if that is known
"""

import json
import os
import weakref

import numpy as np
import torch

from data.prepared import sampled, sha256
from settings import UserError, one_line

FOLDER = os.path.dirname(os.path.abspath(__file__))


class Tokens:
    """One split of data/<dataset>/, as windows of block_size tokens and their successors.

    Raises UserError if the split is missing, is not what its meta.json says, or is shorter than a window.
    """

    def __init__(self, dataset: str, split: str, block_size: int):
        folder = os.path.join(FOLDER, dataset)
        self.path, self.block_size = os.path.join(folder, f"{split}.bin"), block_size
        scripted = os.path.exists(os.path.join(folder, "prepare.py"))
        prepare = f"run: python data/{dataset}/prepare.py" if scripted else "prepare it again"
        try:
            with open(os.path.join(folder, "meta.json")) as file:
                self.meta = json.load(file)
            if split not in self.meta["counts"]:
                raise UserError(f"dataset={dataset!r} has no {split}, only {', '.join(self.meta['counts'])}")
            self.file = os.open(self.path, os.O_RDONLY)  # kept: who prepares the data anew makes another file
            weakref.finalize(self, os.close, self.file)
            size = os.path.getsize(self.path) // np.dtype(self.meta["dtype"]).itemsize
        except FileNotFoundError as error:
            if not os.path.isdir(folder):
                known = sorted(
                    name
                    for name in os.listdir(FOLDER)
                    if any(os.path.exists(os.path.join(FOLDER, name, file)) for file in ("prepare.py", "meta.json"))
                )
                raise UserError(
                    f"dataset={dataset!r}: there is no data/{dataset}; there are {', '.join(known)}"
                ) from None
            raise UserError(
                f"dataset={dataset!r}: {os.path.relpath(error.filename, os.path.dirname(FOLDER))} is missing; {prepare}"
            ) from None
        if size != self.meta["counts"][split]:
            raise UserError(
                f"dataset={dataset!r}: {split}.bin has {size:,} tokens, which meta.json does not say; {prepare}"
            )
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)
        if size <= block_size:
            raise UserError(f"block_size={block_size} needs more than the {size:,} tokens of {dataset}'s {split}.bin")
        self.size = size

    def check(self, split: str, verify: bool = False) -> None:
        """Raises UserError if a sample of the file's pages, or with `verify` any page, is not what meta.json says."""
        pages, found = sampled(self.path)
        known = self.meta.get("sampled", {}).get(split, found)
        if verify:
            known, found = self.meta["sha256"][split], sha256(self.path)
        if found != known:
            raise UserError(f"{self.path} is not the file that its meta.json describes: prepare it again")
        self.check_vocabulary(np.frombuffer(pages, self.meta["dtype"]))

    def check_vocabulary(self, ids):
        if ids.max() >= self.meta["vocab_size"]:
            raise UserError(
                f"{self.path} holds token {ids.max()}, beyond the {self.meta['vocab_size']} of its meta.json"
            )

    def windows(self, starts: np.ndarray | list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows at starts (B,) -> tokens and targets, each (B, block_size) int64.

        Reads the bytes of the windows and no others: a memory map would read megabytes ahead for each of them. Raises
        UserError if the file cannot be read, has become shorter, or holds a token beyond the vocabulary.
        """
        rows = np.empty((len(starts), self.block_size + 1), self.meta["dtype"])
        for row, start in zip(rows, starts):  # several threads may read: there is no position that they would share
            try:
                content = os.pread(self.file, row.nbytes, int(start) * rows.itemsize)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read: {error.strerror}") from None
            if len(content) != row.nbytes:
                raise UserError(f"{self.path} has become shorter since it was opened")
            row[:] = np.frombuffer(content, rows.dtype)
        rows = rows.astype(np.int64)
        self.check_vocabulary(rows)
        rows = torch.from_numpy(rows)
        return rows[:, :-1], rows[:, 1:]

    def random_starts(self, seed: int, it: int, count: int) -> np.ndarray:
        """Where the `count` windows of step `it` begin: a function of the seed and the step alone."""
        return np.random.default_rng((seed, it)).integers(0, self.size - self.block_size, count)

    def spread_starts(self, count: int) -> np.ndarray:
        """At most `count` windows (0: all) that do not overlap, evenly spread over the split, in order."""
        whole = (self.size - 1) // self.block_size
        count = min(count, whole) if count else whole
        return np.arange(count) * whole // count * self.block_size


def split(dataset: str, name: str, block_size: int, verify: bool = False) -> Tokens:
    """A split of a data set that is what its meta.json says. Raises UserError, also if that is damaged.

    verify: check all of the file, and not a sample of its pages only.
    """
    try:
        found = Tokens(dataset, name, block_size)
        meta, size = found.meta, found.meta["vocab_size"]
        if np.dtype(meta["dtype"]).kind not in "ui" or type(size) is not int or not 1 <= size < 2**32:
            raise ValueError("dtype or vocab_size")
        if type(meta["counts"][name]) is not int or type(meta["source"]) is not str:
            raise ValueError("counts or source")
        found.check(name, verify)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 a file may be wrong in more ways than there are names for
        what = f"its meta.json is damaged ({one_line(error)})"
        raise UserError(f"dataset={dataset!r}: {what}: prepare it again") from None
    return found


def splits(dataset: str, block_size: int, verify: bool = False) -> tuple[Tokens, Tokens]:
    """The training and the validation split of a data set, each as `split` gives it."""
    return split(dataset, "train", block_size, verify), split(dataset, "val", block_size, verify)
