"""WikiText, LAMBADA and CIFAR-10 are the known ones, or refused in one line.

python -m pytest tests/data/test_evaluation_sets.py
"""

import io
import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from prepare_script import SHARED, module, needs_shared, prepare, prepared, refused

from data.tokenizers import GPT2
from settings import UserError


@needs_shared
def test_wikitext_from_the_file_and_from_rows_as_on_the_hub(tmp_path, monkeypatch):
    raw = SHARED / "wikitext2" / "wiki.test.raw"
    meta, ids = prepared("wikitext", tmp_path, "--source", raw)
    assert meta["counts"] == {"test": 283_287} and "WikiText-2" in meta["source"]
    assert GPT2().decode(ids["test"].tolist()) == raw.read_text()
    rows = [row for line in raw.read_text().splitlines(keepends=True) for row in ("", line)]  # it has empty rows
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "test.parquet")
    loaded = module("wikitext")
    monkeypatch.setattr(loaded, "hub_file", lambda *arguments: (tmp_path / "test.parquet", "commit"))
    assert "".join(loaded.wikitext(None)) == raw.read_text()


@needs_shared
def test_wikitext_by_lines_needs_the_blank_ones(tmp_path):
    raw, whole, out = SHARED / "wikitext2" / "wiki.test.raw", tmp_path / "wiki.test.raw", tmp_path / "out"
    lines = raw.read_text().splitlines(keepends=True)
    whole.write_text("".join(line + " \n" * (i < 4358 - len(lines)) for i, line in enumerate(lines)))
    meta, ids = prepared("wikitext", out, "--variant", "lines", "--source", whole)
    assert meta["counts"] == {"test": 287_645} and "each line ended by 50256" in meta["source"]
    rows = GPT2().decode(ids["test"].tolist()).split("<|endoftext|>")
    assert rows[:5] == [lines[0], "", lines[1], "", lines[2]] and rows[-2:] == [lines[-1], ""] and len(rows) == 4359
    assert prepared("wikitext", out, "--source", whole)[0]["counts"] == {"test": 283_287}
    refused(prepare("wikitext", "--variant", "lines", "--source", raw, "--out", out), "2,891 lines instead of 4,358")


@needs_shared
@pytest.mark.parametrize(
    "variant, file, count, hub",
    [
        ("openai", "lambada_test.jsonl", 435_383, "EleutherAI/lambada_openai"),
        ("original", "lambada_original_test.txt", 424_559, "cimec/lambada"),
    ],
)
def test_lambada_passages_and_last_words(tmp_path, variant, file, count, hub):
    meta, ids = prepared("lambada", tmp_path, "--variant", variant, "--source", SHARED / "lambada" / file)
    assert meta["counts"] == {"test": count} and hub in meta["source"]
    bounds, decode = np.load(tmp_path / "passages.npy"), GPT2().decode
    lines = (SHARED / "lambada" / file).read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines] if variant == "openai" else lines
    assert len(bounds) == len(texts) == 5153 and (ids["test"][bounds[:, 2]] == GPT2.end).all()
    for (start, word, end), text in zip(bounds.tolist(), texts):
        assert decode(ids["test"][start:end].tolist()) == text
        assert decode(ids["test"][word:end].tolist()) == " " + text.split(" ")[-1]


@needs_shared
def test_lambada_from_parquet_as_on_the_hub(tmp_path):
    texts = (SHARED / "lambada" / "lambada_original_test.txt").read_text().splitlines()
    table = pyarrow.table({"text": texts, "domain": [""] * len(texts)})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    meta, _ = prepared("lambada", tmp_path / "out", "--variant", "original", "--source", tmp_path / "test.parquet")
    assert meta["counts"] == {"test": 424_559}


@pytest.mark.parametrize("name, suffix", [("wikitext", ".raw"), ("lambada", ".jsonl")])
def test_other_texts_are_refused(name, suffix, tmp_path):
    other, out = tmp_path / f"other{suffix}", tmp_path / "out"
    other.write_text('{"text": "one passage"}\n')
    refused(prepare(name, "--source", other, "--out", out), "other", "not all of it")
    refused(prepare(name, "--source", tmp_path / f"none{suffix}", "--out", out), "none")
    other.write_bytes(b"\xff\xfe\n")
    refused(prepare(name, "--source", other, "--out", out), "other", "cannot be read")
    assert not out.exists()


@needs_shared
def test_lambada_variants_are_not_mixed_up(tmp_path):
    done = prepare("lambada", "--source", SHARED / "lambada" / "lambada_original_test.txt", "--out", tmp_path / "out")
    refused(done, "this is not LAMBADA test, OpenAI's")


@needs_shared
@pytest.mark.parametrize(
    "name, variant, file",
    [("wikitext", "lines", "wikitext2/wiki.test.raw"), ("lambada", "original", "lambada/lambada_original_test.txt")],
)
def test_a_variant_has_a_folder_of_its_own(name, variant, file, tmp_path, monkeypatch):
    loaded, folders = module(name), []
    monkeypatch.setattr(loaded, "LINES", 2891, raising=False)  # the file lacks the blank ones
    monkeypatch.setattr(loaded, "write_tokens", lambda folder, *_, **__: folders.append(folder))
    for more in ((), ("--out", str(tmp_path))):
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--variant", variant, "--source", str(SHARED / file), *more])
        loaded.main()
    assert [folder.name for folder in folders] == [f"{name}_{variant}", tmp_path.name]


# -- CIFAR-10


def write_images(path, pixels, labels, encoding="png"):
    rows = []
    for image in pixels:
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, encoding)
        rows.append({"bytes": encoded.getvalue(), "path": "x.png"})
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": labels}), path)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The script, expecting 30 and 20 images; a folder with such files; their pixels."""
    loaded, rng = module("cifar10"), np.random.default_rng(0)
    monkeypatch.setattr(loaded, "COUNTS", {"train": 30, "test": 20})
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    pixels = {split: rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for split, count in loaded.COUNTS.items()}
    for split, images in pixels.items():
        write_images(tmp_path / f"{split}-00000-of-00001.parquet", images, [i % 10 for i in range(len(images))])
    return loaded, tmp_path, pixels


def test_cifar_arrays_are_the_pixels(small):
    loaded, folder, pixels = small
    loaded.main()
    for split, images in pixels.items():
        assert np.array_equal(np.load(folder / "out" / f"{split}_images.npy"), images)
        assert np.load(folder / "out" / f"{split}_labels.npy").tolist() == [i % 10 for i in range(len(images))]
    meta = json.loads((folder / "out" / "meta.json").read_text())
    assert (
        meta["counts"] == {"train": 30, "test": 20} and meta["dtype"] == "uint8" and "not the hub's" in meta["source"]
    )


def test_cifar_bad_files_are_refused_and_the_old_arrays_stay(small):
    loaded, folder, pixels = small
    loaded.main()
    test = folder / "test-00000-of-00001.parquet"
    whole = test.read_bytes()

    def is_refused(message):
        with pytest.raises(UserError, match=message):
            loaded.main()
        assert np.array_equal(np.load(folder / "out" / "test_images.npy"), pixels["test"])
        assert (folder / "out" / "meta.json").exists() and not list((folder / "out").glob("*.part"))

    test.write_bytes(whole[: len(whole) // 2])
    is_refused("test-00000-of-00001.parquet: cannot be read")
    write_images(test, pixels["test"][:19], [0] * 19)
    is_refused("19 images")
    write_images(test, pixels["test"], [10] * 20)
    is_refused("labels to 10")
    write_images(test, pixels["test"][:, :16], [0] * 20)
    is_refused("cannot be read after image 0")
    pyarrow.parquet.write_table(pyarrow.table({"img": [{"bytes": b"no image"}] * 20, "label": [0] * 20}), test)
    is_refused("cannot be read after image 0")
    pyarrow.parquet.write_table(pyarrow.table({"image": [1]}), test)
    is_refused("there is no column")
    test.unlink()
    is_refused("0 files test")


@needs_shared
def test_cifar_real_test_split():
    images, labels = module("cifar10").arrays(SHARED / "cifar10" / "test-00000-of-00001.parquet", 10_000)
    assert images.shape == (10_000, 32, 32, 3) and np.bincount(labels).tolist() == [1000] * 10
    assert np.allclose(images.mean((0, 1, 2)) / 255, (0.494, 0.485, 0.450), atol=0.005)
