"""Documents out of local files: parquet and jsonl with a column `text`, txt with documents between lines <|endoftext|>."""

import json

from settings import UserError

SEPARATOR = "<|endoftext|>"
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    NotImplementedError,
    SyntaxError,
)  # pyarrow's, json's, PIL's errors


def document_files(source):
    """The files of a folder, in the order of their names, or the one file that source is. Raises UserError."""
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in READERS)
    if not files or not files[0].exists() or files[0].suffix not in READERS:
        raise UserError(f"{source}: there is no {', '.join(READERS)} file there")
    return files


def documents(path):
    """The texts of a file, one by one. Raises UserError, with the row or line, on what cannot be read."""
    number = 0
    try:
        for number, text in enumerate(READERS[path.suffix](path), 1):
            if not isinstance(text, str):
                raise UserError(f"{path}: document {number} has no text")
            yield text
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read after document {number:,}: {one_line(error)}") from None


def count_documents(path):
    """How many documents a file has, by its footer where it has one. Raises UserError."""
    if path.suffix != ".parquet":
        return sum(1 for _ in documents(path))
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(path).num_rows
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None


def parquet_rows(path, columns):
    """Rows of a parquet file as dicts, some hundred at a time in memory."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if missing := set(columns) - set(file.schema_arrow.names):
            raise UserError(f"{path}: there is no column {missing.pop()!r}, only {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=256, columns=columns):
            yield from batch.to_pylist()


def parquet_texts(path):
    return (row["text"] for row in parquet_rows(path, ["text"]))


def jsonl_texts(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)["text"]


def txt_texts(path):
    lines = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() == SEPARATOR:
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    if lines:
        yield "".join(lines)


def one_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0]


READERS = {".parquet": parquet_texts, ".jsonl": jsonl_texts, ".txt": txt_texts}
