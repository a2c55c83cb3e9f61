"""GPT-2 tokens of OpenWebText, split as in nanoGPT (seed 2357, 0.05 % of the documents for validation).

    python data/openwebtext/prepare.py [--workers N] [--max_docs N] [--source FILE or FOLDER] [--out DIR]

Writes train.bin, val.bin (each document ended by 50256; documents in the source's order) and meta.json. Expected from the
hub: 8,013,769 documents; train about 9.04e9 tokens (18 GB), val about 4.4e6 (nanoGPT: 9,035,582,198 and 4,434,897). The
hub's files, 24 GB, stay in its cache (HF_HOME). --source takes parquet and jsonl with a column `text`, or txt with lines
<|endoftext|> between documents, or a folder with the train.bin and val.bin of nanoGPT, which are checked and copied.
Interrupted by Ctrl-C, a full disk or a power cut, the same command goes on where it was.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import count_documents, document_files, documents
from data.prepared import (
    GPT2_EOT,
    GPT2_VOCAB,
    arguments,
    gpt2_tokenizer,
    hub_file,
    need_disk,
    publish,
    report,
    sha256,
    sync,
    whole_file,
    write_tokens,
)
from settings import UserError, one_line_errors

HUB = ("Skylion007/openwebtext", "79d93d786212f7344586290adb811d4ae6a1762c")
HUB_FILES = [f"plain_text/train-{i:05d}-of-00080.parquet" for i in range(80)]
DOCUMENTS = 8_013_769
NANOGPT = {"train": 9_035_582_198, "val": 4_434_897}  # tokens
TOKEN_BYTES = 2260  # of .bin per document, on average
FILE_BYTES = 303e6  # of a file of the hub
BYTES_OF_TEXT = {".parquet": 0.8, ".jsonl": 0.5, ".txt": 0.5}  # of .bin per byte of source, at most usually
MEMORY, WORKER_MEMORY = 0.7e9, 0.15e9  # bytes: three and two times what was measured
BATCH = 256  # documents that a worker takes at once
SAVED = 2048  # documents between two notes of how far the work is


def main():
    parser = arguments(__file__, __doc__, "file or folder of parquet, jsonl or txt, instead of the Hugging Face hub")
    parser.add_argument("--max_docs", type=int, help="take the first N documents only; not of .bin files")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that tokenize (default: all cores)"
    )
    args = parser.parse_args()
    if args.workers < 1 or args.max_docs is not None and args.max_docs < 2:
        raise UserError(
            "--workers must be at least 1, and --max_docs at least 2: one to train on and one to validate on"
        )

    if args.source and (args.source / "train.bin").exists():
        if args.max_docs:
            raise UserError(f"--max_docs: {args.source} holds tokens already split, which are taken whole")
        return adopt(args.source, args.out)
    local = document_files(args.source) if args.source else None
    say_needs(args, local)
    gpt2_tokenizer()  # its files are there before the workers ask for them
    files = {path: count_documents(path) for path in local} if local else hub_files(args.max_docs)
    total = sum(files.values())
    if not local and not args.max_docs and total != DOCUMENTS:
        raise UserError(f"{HUB[0]}: {total:,} documents, not {DOCUMENTS:,}: a partial export; --max_docs would take it")
    total = min(args.max_docs or total, total)
    if total < 2:
        raise UserError(
            f"{args.source}: {total} documents, too few to split (in txt, lines <|endoftext|> separate them)"
        )

    counts = tokenize(args.out, files, total, args.workers)
    source = f"local files, {args.source.name}" if local else f"OpenWebText ({HUB[0]})"
    publish(
        args.out,
        ["train.bin", "val.bin"],
        {
            "source": source + f", the first {total:,} documents" * bool(args.max_docs),
            "revision": None if local else HUB[1],
            "sha256": None,
            "tokenizer": "gpt2",
            "vocab_size": GPT2_VOCAB,
            "dtype": "uint16",
            "documents": total,
            "counts": counts,
        },
    )
    (args.out / "progress.part").unlink()
    report(args.out, counts)
    if not local and total == DOCUMENTS and counts != NANOGPT:
        print(f"nanoGPT's counts are others, {NANOGPT}: the same documents in another order or form")


def adopt(source, out):
    """Check and copy the train.bin and val.bin that nanoGPT's prepare.py has left in a folder. Raises UserError."""
    paths = {split: source / f"{split}.bin" for split in ("train", "val")}
    hashes = {split: sha256(path) for split, path in paths.items()}
    sizes = {split: path.stat().st_size for split, path in paths.items()}
    if odd := [path for split, path in paths.items() if sizes[split] % 2]:
        raise UserError(f"{odd[0]}: {sizes[odd[0].stem]:,} bytes are no whole number of 2-byte tokens")
    need_disk({out: sum(sizes.values())})
    write_tokens(
        out,
        {split: chunks(path) for split, path in paths.items()},
        GPT2_VOCAB,
        tokenizer="gpt2",
        revision=None,
        source=f"local files, {source.resolve().name}/train.bin and val.bin",
        sha256=hashes,
    )


def chunks(path, size=1 << 24):
    """The ids of a .bin file, uint16, `size` at a time."""
    with open(path, "rb") as file:
        while len(ids := np.fromfile(file, np.uint16, size)):
            yield ids


def say_needs(args, local):
    """Print what disk and memory it takes. Raises UserError where there is less, of memory where the system tells."""
    wanted = min(args.max_docs or DOCUMENTS, DOCUMENTS)
    if local:
        size = sum(path.stat().st_size * BYTES_OF_TEXT[path.suffix] for path in local)
        needs = {args.out: min(size, args.max_docs * 2 * TOKEN_BYTES) if args.max_docs else size}
        fetch = ""
    else:
        from huggingface_hub import constants, try_to_load_from_cache

        names = HUB_FILES[: math.ceil(wanted / DOCUMENTS * len(HUB_FILES))]
        cached = [try_to_load_from_cache(HUB[0], name, revision=HUB[1], repo_type="dataset") for name in names]
        cache = Path(constants.HF_HUB_CACHE)
        needs = {args.out: wanted * TOKEN_BYTES, cache: cached.count(None) * FILE_BYTES}
        fetch = f", {needs[cache] / 1e9:.1f} GB in {cache} for what is to be downloaded"
    memory = MEMORY + args.workers * WORKER_MEMORY
    print(
        f"needs about {needs[args.out] / 1e9:.1f} GB of disk in {args.out}{fetch}, and {memory / 1e9:.1f} GB of memory "
        f"for {args.workers} workers",
        flush=True,
    )
    needs[args.out] -= sum(path.stat().st_size for path in args.out.glob("*.bin.part"))
    need_disk(needs)
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        available = int(dict(line.split(":") for line in file)["MemAvailable"].split()[0]) * 1024
        if available < memory:
            raise UserError(
                f"{memory / 1e9:.1f} GB of memory are needed and {available / 1e9:.1f} GB available: "
                "fewer --workers need less"
            )


def hub_files(max_docs):
    """{path: documents} of the hub's parquet files, of as many as max_docs (None: all) takes. Raises UserError."""
    files = {}
    for name in HUB_FILES:
        path, _ = hub_file(*HUB, name)
        files[path] = count_documents(path)
        if max_docs and sum(files.values()) >= max_docs:
            break
    return files


def tokenize(out, files, total, workers):
    """Write out/{train,val}.bin.part from the first `total` documents of {path: documents} -> tokens of each.

    progress.part says up to which document they are on the disk; what is there and belongs to these files is kept.
    Raises UserError.
    """
    progress, parts = out / "progress.part", [out / "train.bin.part", out / "val.bin.part"]
    of = [[path.name, path.stat().st_size, count] for path, count in files.items()] + [total]
    state = {"of": of, "documents": 0, "bytes": [0, 0]}
    if progress.exists() and all(part.exists() for part in parts):
        before = json.loads(progress.read_text())
        if before["of"] == of and all(part.stat().st_size >= size for part, size in zip(parts, before["bytes"])):
            state = before
    if state["documents"]:
        print(f"going on after document {state['documents']:,}")

    validation = np.zeros(total, bool)  # as datasets' train_test_split chooses them for nanoGPT
    validation[np.random.default_rng(2357).permutation(total)[: math.ceil(0.0005 * total)]] = True

    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        out.mkdir(parents=True, exist_ok=True)
        done = state["documents"]
        with (
            open(parts[0], "ab") as train,
            open(parts[1], "ab") as val,
            tqdm(total=total, initial=done, unit="doc", unit_scale=True, disable=None) as bar,
        ):
            for file, size in zip((train, val), state["bytes"]):
                file.truncate(size)
                file.seek(size)
            for ids, lengths in in_order(pool, encode, batches(skipped(files, done), total - done), ahead=4 * workers):
                to_val = np.repeat(validation[done : done + len(lengths)], lengths)
                train.write(ids[~to_val])
                val.write(ids[to_val])
                done += len(lengths)
                bar.update(len(lengths))
                if done - state["documents"] >= SAVED or done == total:
                    sync(train)
                    sync(val)
                    state.update(documents=done, bytes=[train.tell(), val.tell()])
                    with whole_file(progress) as file:
                        file.write(json.dumps(state).encode())
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written: {error.strerror or error}; the same command goes on after document "
            f"{state['documents']:,}"
        ) from error
    except KeyboardInterrupt:
        raise UserError(f"interrupted; the same command goes on after document {state['documents']:,}") from None
    except BrokenProcessPool:
        raise UserError(
            "a worker died, perhaps for want of memory: the same command with fewer --workers goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    if done != total:
        raise UserError(f"{out}: the files hold {done:,} documents instead of the {total:,} that were counted")
    return {"train": state["bytes"][0] // 2, "val": state["bytes"][1] // 2}


def skipped(files, done):
    """The texts of {path: documents} in order, after the first `done`."""
    for path, count in files.items():
        if done < count:
            yield from islice(documents(path), done, None)
        done = max(0, done - count)


def batches(texts, count):
    """The first `count` texts as lists of at most BATCH."""
    texts = islice(texts, count)
    while batch := list(islice(texts, BATCH)):
        yield batch


def in_order(pool, function, items, ahead):
    """function(item) of all items in order, from the pool, with at most `ahead` items under way: memory stays flat."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def start_worker():
    """In a worker: one tokenizer for all its batches. Ctrl-C is for the parent to handle, which no worker outlives."""
    global tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    tokenizer = gpt2_tokenizer()


def encode(texts):
    """Texts -> their ids, one after the other, uint16, and the length of each, with the document's end."""
    ids = [tokenizer.encode_ordinary(text) + [GPT2_EOT] for text in texts]
    return np.concatenate([np.array(document, np.uint16) for document in ids]), np.array(
        [len(document) for document in ids]
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
