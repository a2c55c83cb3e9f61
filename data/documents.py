"""Documents from local files: parquet and jsonl with a column `text`; txt and md with lines <|endoftext|> between them.

A file is cut into pieces, which any number of processes can read at the same time.
"""

import io
import json
import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from settings import UserError, one_line

SEPARATOR = "<|endoftext|>"
PIECE_BYTES, PIECE_ROWS = 1 << 21, 512  # of a piece, about: some tenths of a second to tokenize
MOST_PIECES = 16  # of a row group, since each of them reads it from its start
# errors of pyarrow, json and PIL
UNREADABLE = (OSError, ValueError, TypeError, KeyError, NotImplementedError, SyntaxError, RecursionError, OverflowError)


class Piece(NamedTuple):
    """The documents of a file from `start` to `stop`: rows of parquet, bytes of other files."""

    path: Path
    start: int
    stop: int


def suffix(path: Path) -> str:
    """The end of a file's name, by which its format is known."""
    return path.suffix.lower()


def document_files(source: Path) -> list[Path]:
    """The files of a folder, ordered by name, or the one file that source is. Raises UserError."""
    files = [source]
    if os.path.isdir(source):
        files = sorted(path for path in source.rglob("*") if suffix(path) in FORMATS and os.path.isfile(path))
    if not files or not os.path.exists(files[0]) or suffix(files[0]) not in FORMATS:
        raise UserError(f"{source}: there is no {', '.join(FORMATS)} file there")
    return files


def pieces(path: Path) -> list[Piece]:
    """The pieces of a file, in order; reads little of it. Raises UserError."""
    try:
        return [Piece(path, start, stop) for start, stop in FORMATS[suffix(path)][0](path)]
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None


def documents(source: Path | Piece) -> Iterator[str]:
    """Yields the texts of a file or piece. Raises UserError, with the place, on what cannot be read."""
    whole = isinstance(source, Path)
    path, number = source if whole else source.path, 0
    try:
        for piece in pieces(path) if whole else [source]:
            for text in FORMATS[suffix(path)][1](*piece):
                number += 1
                if not isinstance(text, str):
                    raise UserError(f"{path}: {place(number, source)} has no text")
                yield text
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read after {place(f'{number:,}', source)}: {one_line(error)}") from None


def place(number, source):
    """Where a document is, in words."""
    if isinstance(source, Path) or not source.start:
        return f"document {number}"
    return f"document {number} from {'row' if suffix(source.path) == '.parquet' else 'byte'} {source.start:,} on"


def count_documents(source: Path | Piece) -> int:
    """The number of documents in a file or piece, without reading it if a footer gives it. Raises UserError."""
    if isinstance(source, Path):
        return sum(map(count_documents, pieces(source)))
    if suffix(source.path) == ".parquet":
        return source.stop - source.start
    return sum(1 for _ in documents(source))


def parquet_pieces(path):
    import pyarrow.parquet

    metadata, end = pyarrow.parquet.read_metadata(path), 0
    for group in range(metadata.num_row_groups):
        start, end = end, end + metadata.row_group(group).num_rows
        step = max(PIECE_ROWS, -(-(end - start) // MOST_PIECES))
        yield from ((row, min(row + step, end)) for row in range(start, end, step))


def parquet_rows(path: Path, columns: list[str], start: int = 0, stop: int | None = None) -> Iterator[dict]:
    """Yields rows start to stop (None: all) of a parquet file as dicts; a few hundred are in memory at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:  # else it reads a whole row group at once
        if missing := set(columns) - set(file.schema_arrow.names):
            raise UserError(f"{path}: there is no column {missing.pop()!r}, only {', '.join(file.schema_arrow.names)}")
        ends = [0, *accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
        stop = ends[-1] if stop is None else stop
        groups = [i for i in range(file.num_row_groups) if ends[i] < stop and start < ends[i + 1]]
        row = ends[groups[0]] if groups else 0
        for batch in file.iter_batches(batch_size=256, row_groups=groups, columns=columns):
            first, row = row, row + len(batch)
            if row > start:
                skipped = max(0, start - first)
                yield from batch.slice(skipped, min(row, stop) - first - skipped).to_pylist()
            if row >= stop:
                break


def parquet_texts(path, start, stop):
    return (row["text"] for row in parquet_rows(path, ["text"], start, stop))


def line_pieces(path, after=None):
    """Cuts at ends of lines; after: only of lines that are this and nothing else."""
    start, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while start < size:
            file.seek(start + PIECE_BYTES)
            line = file.readline()  # what is left of one
            while after and (line := file.readline()) and line.strip() != after:
                pass
            yield start, (start := min(file.tell(), size))


def lines(path, start, stop):
    """The lines of a piece, each ended by \\n; without the mark that some editors put at the start of a file."""
    with open(path, "rb") as file:
        file.seek(start)
        return io.StringIO(file.read(stop - start).decode("utf-8" if start else "utf-8-sig"), newline=None)


def jsonl_texts(path, start, stop):
    for line in lines(path, start, stop):
        if line.strip():
            text = json.loads(line)["text"]
            if (
                isinstance(text, str) and not text.isascii()
            ):  # JSON can contain half a character, which no tokenizer knows
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            yield text


def txt_pieces(path):
    return line_pieces(path, SEPARATOR.encode())


def txt_texts(path, start, stop):
    text = []
    for line in lines(path, start, stop):
        if line.strip() == SEPARATOR:
            yield "".join(text)
            text = []
        else:
            text.append(line)
    if text:
        yield "".join(text)


FORMATS = {  # suffix: (where a file may be cut, the texts between two cuts)
    ".parquet": (parquet_pieces, parquet_texts),
    ".jsonl": (line_pieces, jsonl_texts),
    ".txt": (txt_pieces, txt_texts),
    ".md": (txt_pieces, txt_texts),
}
