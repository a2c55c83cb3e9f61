"""CIFAR-10 as arrays, so that training decodes nothing.

    python data/cifar10/prepare.py [--source FOLDER] [--out DIR]

Writes {train,test}_images.npy, uint8 (N, 32, 32, 3), {train,test}_labels.npy, uint8 (N,), and meta.json.
Expected: train 50,000 and test 10,000 images of 10 classes. FOLDER has train*.parquet and test*.parquet with the hub's
columns `img` (encoded bytes) and `label`; other encodings of the images are accepted and noted in meta.json.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import UNREADABLE, parquet_rows
from data.prepared import arguments, check_sha256, data_set, hub_file, report, sha256
from settings import UserError, one_line, one_line_errors

HUB = ("uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2")
HUB_SHA256 = {
    "train": "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
    "test": "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50_000, "test": 10_000}


def parquet_file(source, split):
    """The parquet file of a split, in the folder source or from the hub. Raises UserError."""
    if not source:
        path, _ = hub_file(*HUB, f"plain_text/{split}-00000-of-00001.parquet")
        check_sha256(path, HUB_SHA256[split])
        return path
    found = sorted(source.glob(f"{split}*.parquet"))
    if len(found) != 1:
        raise UserError(f"{source}: {len(found)} files {split}*.parquet, but one is needed")
    return found[0]


def arrays(path, count):
    """Images (count, 32, 32, 3) and labels (count,) of a parquet file, uint8. Raises UserError."""
    images, labels, n = np.empty((count, 32, 32, 3), np.uint8), np.empty(count, np.uint8), 0
    try:
        for row in tqdm(parquet_rows(path, ["img", "label"]), total=count, desc=path.name, disable=None):
            if n < count:
                images[n] = Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")
                labels[n] = row["label"]
            n += 1
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read after image {n:,}: {one_line(error)}") from None
    if n != count or labels.max() >= len(CLASSES):
        raise UserError(
            f"{path}: {n:,} images with labels to {labels[:n].max(initial=0)}, not {count:,} with labels to 9"
        )
    return images, labels


def main():
    args = arguments(__file__, __doc__, "folder of local parquet files, instead of the Hugging Face hub").parse_args()
    names = [f"{split}_{kind}.npy" for split in COUNTS for kind in ("images", "labels")]
    with data_set(args.out, *names) as (files, meta):
        hashes = {}
        for i, (split, count) in enumerate(COUNTS.items()):
            path = parquet_file(args.source, split)
            hashes[split] = sha256(path)
            for file, array in zip(files[2 * i : 2 * i + 2], arrays(path, count)):
                np.save(file, array)
        same = hashes == HUB_SHA256
        meta.update(
            source="CIFAR-10 (uoft-cs/cifar10)" if same else "CIFAR-10, local files that are not the hub's",
            revision=HUB[1] if same else None,
            source_sha256=hashes,
            tokenizer=None,
            vocab_size=None,
            dtype="uint8",
            classes=CLASSES,
            counts=COUNTS,
        )
    report(args.out, COUNTS, "images")


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
