"""A text of your own, as characters, GPT-2's tokens or bytes.

    python data/text/prepare.py --source my.txt                                          # characters, to data/text
    python data/text/prepare.py --source my_folder --tokenizer gpt2 --out data/my --val 0.05

--source is a txt or md file (lines <|endoftext|> separate documents), a jsonl or parquet file with a column `text`, or
a folder of such files. Writes train.bin, val.bin and meta.json. GPT-2's tokens and bytes have an id for the end of each
document; characters have none, and each document ends with a line. The last tenth of the text, or what --val says, is
for validation; of 100 or more documents, a tenth of the documents, drawn at random.
"""

import os
import sys
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import document_files, documents
from data.prepared import arguments, sha256, write_tokens
from data.tokenizers import GPT2, Bytes, Chars
from settings import UserError, one_line_errors

FOLDER = Path(__file__).resolve().parents[1]
TOKENIZERS = {  # name: what makes one, from the characters of the text in their order
    "chars": Chars,
    "gpt2": lambda chars: GPT2(),
    "bytes": lambda chars: Bytes(),
}
MANY = 100  # documents


def main():
    parser = arguments(__file__, __doc__, "file or folder of txt, md, jsonl or parquet")
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="chars", help="(default: %(default)s)")
    parser.add_argument("--val", type=float, default=0.1, help="the part for validation (default: %(default)s)")
    args = parser.parse_args()
    if not args.source:
        raise UserError("--source is missing: a txt, md, jsonl or parquet file, or a folder of such files")
    if not 0 < args.val < 1:
        raise UserError(f"--val {args.val} must be between 0 and 1: 0.1 is a tenth")

    files, chars, sizes = document_files(args.source), {"\n"}, []
    for text in chain.from_iterable(map(documents, files)):
        chars.update(text)
        sizes.append(len(text))
    print(
        f"{args.source}: {len(sizes):,} documents, {sum(sizes):,} characters, {len(chars):,} different ones", flush=True
    )
    tokenizer = TOKENIZERS[args.tokenizer]("".join(sorted(chars)))
    cuts, how = cut(np.array(sizes, np.int64), args.val)

    def ids(split):
        texts = tqdm(chain.from_iterable(map(documents, files)), split, len(sizes), unit="doc", disable=None)
        for text, size, place in zip(texts, sizes, cuts.tolist(), strict=True):
            if len(text) != size:
                raise UserError(f"{args.source} has changed while it was read")
            if split == "train" and 0 < place < len(text):
                yield tokenizer.encode_ordinary(text[:place])  # the document does not end here
            elif part := text[:place] if split == "train" else text[place:]:
                yield tokenizer.encode_document(part)

    write_tokens(
        args.out,
        {split: ids(split) for split in ("train", "val")},
        source=f"{args.source.resolve().name} ({len(sizes):,} documents; for validation: {how})",
        source_sha256=sha256(files[0]) if len(files) == 1 else None,
        documents=len(sizes),
        **tokenizer.meta,
    )
    name = os.path.relpath(args.out, FOLDER)
    print(
        f"python train.py config/train_shakespeare_char_cpu.py --dataset={name} --out_dir=out/{args.out.resolve().name}"
    )


def cut(sizes, part):
    """How many characters of each document (n,) are for training, and in words which part is not."""
    if len(sizes) >= MANY:
        count = max(1, round(part * len(sizes)))
        chosen = np.random.default_rng(2357).permutation(len(sizes))[:count]
        return np.where(np.isin(np.arange(len(sizes)), chosen), 0, sizes), f"{count:,} of them, drawn at random"
    ends = sizes.cumsum()
    whole = int((1 - part) * sizes.sum())
    return (whole - ends + sizes).clip(0, sizes), f"the last {part:.3g} of the text"


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
