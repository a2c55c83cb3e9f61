"""GPT-2 tokens of OpenWebText, split as in nanoGPT (seed 2357, 0.05 % of the documents for validation).

    python data/openwebtext/prepare.py [--workers N] [--max_docs N] [--source FILE or FOLDER] [--out DIR]

Writes train.bin, val.bin (each document ended by 50256; documents in the source's order) and meta.json. Expected from
the hub: 8,013,769 documents; train about 9.04e9 tokens (18 GB), val about 4.4e6 (nanoGPT: 9,035,582,198 and 4,434,897).
The hub's files, 24 GB, stay in its cache (HF_HOME). --source takes parquet and jsonl with a column `text`, or txt with
lines <|endoftext|> between documents, or a folder with nanoGPT's train.bin and val.bin, which are checked and copied.
After Ctrl-C, a full disk or a power cut, the same command continues where it stopped.
"""

import contextlib
import json
import math
import multiprocessing
import operator
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import count_documents, document_files, documents, pieces, suffix
from data.prepared import arguments, hub_file, need_disk, no_follow, publish, report, sync, whole_file, write_tokens
from data.tokenizers import GPT2
from settings import UserError, one_line_errors

HUB = ("Skylion007/openwebtext", "79d93d786212f7344586290adb811d4ae6a1762c")
HUB_FILES = [f"plain_text/train-{i:05d}-of-00080.parquet" for i in range(80)]
DOCUMENTS = 8_013_769
NANOGPT = {"train": 9_035_582_198, "val": 4_434_897}  # tokens
TOKEN_BYTES = 2260  # of .bin per document, on average
FILE_BYTES = 303e6  # of a file of the hub
BYTES_OF_TEXT = {".parquet": 0.8, ".jsonl": 0.5, ".txt": 0.5, ".md": 0.5}  # of .bin per byte of source, at most usually
MEMORY, WORKER_MEMORY = 0.5e9, 0.25e9  # bytes: at least twice what was measured
NOTED = 2  # seconds between notes of the progress


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

    if args.source and os.path.exists(args.source / "train.bin"):
        if args.max_docs:
            raise UserError(f"--max_docs: {args.source} holds tokens already split, which are taken whole")
        return adopt(args.source, args.out)
    local = document_files(args.source) if args.source else None
    print_requirements(args, local)
    GPT2()  # its files are there before the workers ask for them
    counts, total = tokenize(args.out, local or hub_files(args.max_docs), args.max_docs, args.workers)
    source = f"local files, {args.source.name}" if local else f"OpenWebText ({HUB[0]})"
    publish(
        args.out,
        ["train.bin", "val.bin"],
        {
            "source": source + f", the first {total:,} documents" * bool(args.max_docs),
            "revision": None if local else HUB[1],
            "source_sha256": None,
            "dtype": "uint16",
            "documents": total,
            "counts": counts,
            **GPT2.meta,
        },
    )
    (args.out / "progress.part").unlink()
    report(args.out, counts)
    if not local and total == DOCUMENTS and counts != NANOGPT:
        print(f"nanoGPT has other counts, {NANOGPT}: the same documents in another order or form")


def adopt(source, out):
    """Check and copy the train.bin and val.bin that nanoGPT's prepare.py left in a folder. Raises UserError."""
    paths = {split: source / f"{split}.bin" for split in ("train", "val")}
    if missing := [path for path in paths.values() if not os.path.isfile(path)]:
        raise UserError(f"{missing[0]} is missing")
    sizes = {split: path.stat().st_size for split, path in paths.items()}
    if odd := [path for split, path in paths.items() if sizes[split] % 2]:
        raise UserError(f"{odd[0]}: {sizes[odd[0].stem]:,} bytes are not a whole number of 2-byte tokens")
    need_disk({out: sum(sizes.values())})
    write_tokens(
        out,
        {split: chunks(path) for split, path in paths.items()},
        source=f"local files, {source.resolve().name}/train.bin and val.bin",
        revision=None,
        source_sha256=None,
        **GPT2.meta,
    )


def chunks(path):
    """The ids of a .bin file, uint16, 32 MiB at a time."""
    with open(path, "rb") as file:
        while len(ids := np.fromfile(file, np.uint16, 1 << 24)):
            yield ids


def print_requirements(args, local):
    """Print what disk and memory it takes. Raises UserError if there is less; of memory, if the system tells."""
    wanted = min(args.max_docs or DOCUMENTS, DOCUMENTS)
    if local:
        size = sum(path.stat().st_size * BYTES_OF_TEXT[suffix(path)] for path in local)
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
                f"{memory / 1e9:.1f} GB of memory are needed and {available / 1e9:.1f} GB are available: "
                "fewer --workers need less"
            )


def hub_files(max_docs):
    """As many of the hub's parquet files as max_docs (None: all) takes. Raises UserError."""
    files, total = [], 0
    for name in HUB_FILES:
        path, _ = hub_file(*HUB, name)
        files.append(path)
        total += count_documents(path)
        if max_docs and total >= max_docs:
            return files
    if not max_docs and total != DOCUMENTS:
        raise UserError(f"{HUB[0]}: {total:,} documents, not {DOCUMENTS:,}: a partial export; --max_docs would take it")
    return files


def tokenize(out, files, max_docs, workers):
    """Write out/{train,val}.bin.part from the first max_docs documents (None: all) -> {split: tokens}, documents.

    Workers read pieces of the files and leave the ids in out/pieces.part; here they are only moved to their place.
    progress.part says up to which document that is on the disk; what exists and belongs to these files is kept.
    Raises UserError.
    """
    progress, parts, made = out / "progress.part", [out / "train.bin.part", out / "val.bin.part"], out / "pieces.part"
    state = {"documents": 0, "bytes": [0, 0]}
    with one_line_ends(out, state), worker_pool(workers, made) as pool, contextlib.ExitStack() as stack:
        plan, total = planned(pool, files, max_docs, workers)
        state["of"] = [[path.name, path.stat().st_size] for path in files] + [total]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged: from the start
            before = json.loads(progress.read_text())
            sizes = [part.stat().st_size for part in parts]
            if before["of"] == state["of"] and all(map(operator.ge, sizes, before["bytes"])):
                state.update(documents=int(before["documents"]), bytes=before["bytes"])
        if done := state["documents"]:
            print(f"continuing after document {done:,}")

        train, val = (stack.enter_context(open(part, "ab", opener=no_follow)) for part in parts)
        bar = stack.enter_context(tqdm(total=total, initial=done, unit="doc", unit_scale=True, disable=None))
        for file, size in zip((train, val), state["bytes"]):
            file.truncate(size)
            file.seek(size)

        def note(documents, sizes):
            sync(train)
            sync(val)
            state.update(documents=documents, bytes=sizes)
            with whole_file(progress) as file:
                file.write(json.dumps(state).encode())

        noter, noted = stack.enter_context(ThreadPoolExecutor(1)), -math.inf  # the disk may take its time
        noting = noter.submit(len, "")
        for (piece, first, last, _, path), (count, to_val) in in_order(
            pool, encode, tasks(plan, done, total, made), workers
        ):
            if count != last - first:
                raise UserError(f"{piece.path} has other documents than when they were counted")
            train.write(path.read_bytes())
            val.write(to_val)
            path.unlink()
            done += count
            bar.update(count)
            if noting.done() and time.monotonic() >= noted + NOTED:
                noting.result()  # raises its error
                noting, noted = noter.submit(note, done, [train.tell(), val.tell()]), time.monotonic()
        noting.result()
        note(done, [train.tell(), val.tell()])
    return {"train": state["bytes"][0] // 2, "val": state["bytes"][1] // 2}, total


@contextlib.contextmanager
def one_line_ends(out, state):
    """Around the work: whatever stops it early becomes a UserError that says what the same command will do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written: {error.strerror or error}; the same command continues after document "
            f"{state['documents']:,}"
        ) from error
    except KeyboardInterrupt:
        raise UserError(f"interrupted; the same command continues after document {state['documents']:,}") from None
    except BrokenProcessPool:
        raise UserError(
            "a worker died, perhaps out of memory: the same command with fewer --workers continues"
        ) from None


@contextlib.contextmanager
def worker_pool(workers, folder):
    """Processes, and an empty folder for what they make: both are gone after the block."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        yield pool
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # which is how the workers know
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(folder, ignore_errors=True)


def planned(pool, files, max_docs, workers):
    """The pieces of files with the first max_docs documents (None: all) -> [piece, its first document, count], total.

    Raises UserError.
    """
    plan, total = [], 0
    for piece, count in in_order(pool, count_documents, (piece for path in files for piece in pieces(path)), workers):
        plan.append((piece, total, min(count, (max_docs or math.inf) - total)))
        total += plan[-1][-1]
        if total == max_docs:
            break
    if total < 2:
        raise UserError(f"{files[0]}: {total} documents, too few to split (in txt, lines <|endoftext|> separate them)")
    return plan, total


def tasks(plan, done, total, folder):
    """What `encode` takes, for all pieces that have documents after the first `done`."""
    chosen = np.random.default_rng(2357).permutation(total)[: math.ceil(0.0005 * total)]
    validation = np.sort(chosen)  # as datasets' train_test_split chooses them for nanoGPT
    for piece, first, count in plan:
        if done < first + count:
            inside = validation[slice(*np.searchsorted(validation, (first, first + count)))] - first
            yield piece, max(0, done - first), count, frozenset(inside.tolist()), folder / f"{first}"


def in_order(pool, function, items, workers):
    """Yields item, function(item) for all items in order, from the pool, with few under way for each worker."""
    waiting = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > 4 * workers:
            item, future = waiting.popleft()
            yield item, future.result()
    for item, future in waiting:
        yield item, future.result()


def start_worker():
    """In a worker: one tokenizer for all its pieces. The parent handles Ctrl-C; no worker outlives it."""
    global tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    tokenizer = GPT2()


def encode(task):
    """In a worker: write the ids of documents first to last of a piece to a file -> count, ids for validation."""
    piece, first, last, validation, path = task
    count, to_val = 0, []
    with open(path, "wb") as file:
        for i, text in enumerate(islice(documents(piece), first, last), first):
            if i % 64 == 0 and not path.exists():
                break
            ids = tokenizer.encode_document(text)
            to_val.append(ids) if i in validation else file.write(ids)
            count += 1
    return count, b"".join(to_val)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
