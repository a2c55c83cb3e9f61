"""A text of one's own: what it becomes, where it is split, what is an error; files are the same whole and in pieces.

python -m pytest -q tests/data/test_text.py
"""

import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from prepare_script import SHARED, module, needs_shared, prepare, prepared, read, refused

from data import documents as reading
from data.documents import count_documents, document_files, documents, pieces
from data.tokenizers import GPT2, tokenizer
from settings import UserError

TEXT = "Grüße, 世界!\nIt's   a text.\n" * 30 + "And its end."
DOCUMENTS = [f"Document {i}:\n{'x' * (i % 7)} é.\n" for i in range(230)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """data/text/prepare.py in this process, into tmp_path/out -> meta.json, {split: ids}."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--out", str(tmp_path / "out"), *map(str, arguments)])
        module("text").main()
        return read(tmp_path / "out")

    return run


def write_jsonl(path, texts, newline="\n"):
    path.write_bytes("".join(json.dumps({"text": text}) + newline for text in texts).encode())
    return path


# -- what it becomes


def test_characters_of_one_file(run, tmp_path, capsys):
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    meta, ids = run("--source", tmp_path / "my.txt", "--val", "0.25")
    assert meta["tokenizer"] == "char" and meta["chars"] == "".join(sorted(set(TEXT)))
    cut = int(0.75 * len(TEXT))
    for split, text in (("train", TEXT[:cut]), ("val", TEXT[cut:] + "\n")):
        assert ids[split].tolist() == [meta["chars"].index(char) for char in text]
    assert meta["vocab_size"] == len(meta["chars"]) and meta["documents"] == 1
    assert f"{len(TEXT):,} characters" in capsys.readouterr().out


def test_a_mark_of_the_byte_order_is_no_character(run, tmp_path):
    (tmp_path / "my.txt").write_text("abc\n" * 50, encoding="utf-8-sig")
    assert run("--source", tmp_path / "my.txt")[0]["chars"] == "\nabc"
    (tmp_path / "my.jsonl").write_bytes(b"\xef\xbb\xbf" + write_jsonl(tmp_path / "my.jsonl", ["abc"] * 3).read_bytes())
    assert list(documents(tmp_path / "my.jsonl")) == ["abc"] * 3


def test_what_is_nested_too_deep_is_one_line(tmp_path):
    (tmp_path / "my.jsonl").write_text('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(UserError, match="my.jsonl: cannot be read after document 0: RecursionError"):
        list(documents(tmp_path / "my.jsonl"))


def test_gpt2_tokens_and_bytes_end_documents(run, tmp_path):
    (tmp_path / "my.md").write_text(f"{TEXT}\n<|endoftext|>\nSecond.", encoding="utf-8")
    expected = {"gpt2": (GPT2().bpe.encode_ordinary, 50256), "bytes": (lambda text: list(text.encode()), 256)}
    for name, (encode, end) in expected.items():
        meta, ids = run("--source", tmp_path / "my.md", "--tokenizer", name)
        cut = int(0.9 * (len(TEXT) + 1 + len("Second.")))
        assert ids["train"].tolist() == encode(TEXT[:cut])
        assert ids["val"].tolist() == [*encode(TEXT[cut:] + "\n"), end, *encode("Second."), end]
        text = tokenizer(meta).decode([*ids["train"].tolist(), *ids["val"].tolist()])
        assert text == f"{TEXT}\n<|endoftext|>Second.<|endoftext|>"


@pytest.mark.parametrize("count", [99, 100, 230])
def test_many_documents_are_split_whole_and_at_random(run, tmp_path, count):
    write_jsonl(tmp_path / "my.jsonl", DOCUMENTS[:count])
    meta, ids = run("--source", tmp_path / "my.jsonl", "--tokenizer", "bytes")
    found = {split: tokenizer(meta).decode(ids[split].tolist()).split("<|endoftext|>") for split in ids}
    assert found["train"][-1] == found["val"][-1] == "" or count == 99
    if count == 99:
        whole = "<|endoftext|>".join(DOCUMENTS[:99]) + "<|endoftext|>"
        assert "<|endoftext|>".join(found["train"]) + "<|endoftext|>".join(found["val"]) == whole
    else:
        train, val = found["train"][:-1], found["val"][:-1]
        assert len(val) == count // 10 and sorted(train + val) == sorted(DOCUMENTS[:count])
        assert train == [text for text in DOCUMENTS[:count] if text not in val] and val != DOCUMENTS[-len(val) :]


def test_a_folder_of_all_kinds_of_files(run, tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["parquet\n"]}), folder / "a.parquet")
    write_jsonl(folder / "b" / "c.jsonl", ["one\n", "two", "half \ud83d a character"])
    (folder / "d.md").write_text("markdown\n")
    (folder / "e.TXT").write_bytes(b"lines\r\nof windows\r\n<|endoftext|>\r\nmore")
    (folder / "f.png").write_bytes(b"\xff")
    meta, ids = run("--source", folder)
    text = tokenizer(meta).decode(np.concatenate([ids["train"], ids["val"]]).tolist())
    assert text == "parquet\none\ntwo\nhalf \ufffd a character\nmarkdown\nlines\nof windows\nmore\n"
    assert meta["documents"] == 7 and meta["source"].startswith("texts (7 documents; for validation: the last 0.1")


@needs_shared
def test_tinyshakespeare_is_that_of_its_own_prepare(tmp_path):
    source = SHARED / "tinyshakespeare" / "input.txt"
    ours, theirs = (prepared(name, tmp_path / name, "--source", source) for name in ("text", "shakespeare_char"))
    assert ours[0]["sha256"] == theirs[0]["sha256"] and ours[0]["chars"] == theirs[0]["chars"]


# -- what is refused


def test_a_wrong_argument_is_one_line(tmp_path):
    (tmp_path / "my.txt").write_text(TEXT)
    refused(prepare("text", "--source", tmp_path / "my.txt", "--tokenizer", "words"), "--tokenizer", "'gpt2', 'bytes'")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--source is missing"),
        (["--source", "FOLDER/none.txt"], "none.txt: there is no .parquet, .jsonl, .txt, .md file"),
        (["--source", "FOLDER/book.pdf"], "book.pdf: there is no"),
        (["--source", "FOLDER/empty"], "empty: there is no"),
        (["--source", "FOLDER/latin.txt"], "latin.txt: cannot be read after document 0: UnicodeDecodeError"),
        (["--source", "FOLDER/blank.txt"], "the split is empty"),
        (["--source", "FOLDER/other.jsonl"], "other.jsonl: cannot be read after document 0: KeyError: 'text'"),
        (["--source", "FOLDER/my.txt", "--val", "0"], "--val 0.0 must be between 0 and 1"),
        (["--source", "FOLDER/my.txt", "--val", "nan"], "--val nan must be"),
        (["--source", "FOLDER/my.txt", "--val", "10%"], "--val: invalid float value: '10%'"),
        (["--source", "FOLDER/my.txt", "--sauce", "x"], "unrecognized arguments: --sauce x"),
        (["--source", "FOLDER/my.txt", "--out", "data/wikitext"], "data/wikitext is for the data set of its own"),
        (["--source", "FOLDER/my.txt", "--out", "FOLDER/my.txt"], "cannot be written"),
    ],
)
def test_what_cannot_be_prepared_is_one_line_and_loses_nothing(run, tmp_path, arguments, message):
    (tmp_path / "my.txt").write_text(TEXT)
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_text(TEXT.replace("世界", ""), encoding="latin-1")
    (tmp_path / "blank.txt").write_text("")
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    before = run("--source", tmp_path / "my.txt")
    with pytest.raises(UserError) as caught:
        run(*(argument.replace("FOLDER", str(tmp_path)) for argument in arguments))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    after = read(tmp_path / "out")
    assert after[0] == before[0] and not list(tmp_path.rglob("*.part"))


# -- reading in pieces


@pytest.mark.parametrize("size", [1, 40, 1000, 1 << 21])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_pieces_together_are_the_file(tmp_path, monkeypatch, size, newline):
    monkeypatch.setattr(reading, "PIECE_BYTES", size)
    texts = [*DOCUMENTS[:60], "", "not\n a <|endoftext|>\n<|endoftext|> nor this\n", "the last\n"]
    write_jsonl(tmp_path / "a.jsonl", texts, newline + newline)
    (tmp_path / "b.txt").write_bytes("<|endoftext|>\n".join(texts).replace("\n", newline).encode())
    (tmp_path / "c.txt").write_bytes(b"no separator\n" * 20)
    for name, expected in (("a.jsonl", texts), ("b.txt", texts), ("c.txt", ["no separator\n" * 20])):
        parts = pieces(tmp_path / name)
        assert [text for part in parts for text in documents(part)] == expected == list(documents(tmp_path / name))
        assert sum(map(count_documents, parts)) == count_documents(tmp_path / name) == len(expected)
        assert len(parts) == 1 if size > 1 << 19 or name == "c.txt" else len(parts) > (50 if size == 1 else 1)


@pytest.mark.parametrize("rows, group", [(1, 7), (3, 7), (512, 7), (2, 1000), (50, 1000)])
def test_rows_of_parquet_in_pieces(tmp_path, monkeypatch, rows, group):
    monkeypatch.setattr(reading, "PIECE_ROWS", rows)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS, "i": range(230)}), path, row_group_size=group)
    parts = pieces(path)
    assert [text for part in parts for text in documents(part)] == DOCUMENTS == list(documents(path))
    assert len(parts) == {7: {1: 230, 3: 32 * 3 + 2, 512: 33}, 1000: {2: 16, 50: 5}}[group][rows]
    assert count_documents(path) == 230 and document_files(tmp_path) == [path]


def test_an_error_in_a_piece_says_where_the_piece_is(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PIECE_BYTES", 100)
    path = write_jsonl(tmp_path / "a.jsonl", [*"abcdefgh", None])
    *_, last = pieces(path)
    with pytest.raises(UserError, match=rf"a.jsonl: document \d from byte {last.start} on has no text"):
        list(documents(last))
    with pytest.raises(UserError, match="a.jsonl: document 9 has no text"):
        list(documents(path))
