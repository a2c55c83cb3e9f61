"""GPT-2 tokens of a LAMBADA test set, for evaluation. There are two, whose numbers cannot be compared:

    python data/lambada/prepare.py [--source lambada_test.jsonl] [--out DIR]            # OpenAI's, as in GPT-2's paper
    python data/lambada/prepare.py --variant original       # lower case, spaced punctuation

Writes test.bin, each passage ended by 50256; passages.npy, int64 (5153, 3): where in test.bin a passage begins, where
its last word (the one to guess) begins, and where it ends; and meta.json. Expected: 5,153 passages; test 435,383 tokens
(OpenAI's) or 424,559 (the original).
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import documents, suffix
from data.prepared import arguments, hub_file, write_tokens
from data.tokenizers import GPT2
from settings import UserError, one_line_errors

VARIANTS = {  # name: (source in meta.json, file of the hub, passage -> line of the original file, its sha256, tokens)
    "openai": (
        "LAMBADA test, OpenAI's (EleutherAI/lambada_openai)",
        ("EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", "data/lambada_test.jsonl"),
        lambda text: json.dumps({"text": text}),
        "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
        435_383,
    ),
    "original": (
        "LAMBADA test, the original (cimec/lambada)",
        ("cimec/lambada", "main", "plain_text/test-00000-of-00001.parquet"),
        str.strip,
        "4ab6062b68422bf2e83653d367c9765d42404f7ec21b8b59b6518b45606aaef2",
        424_559,
    ),
}


def passages(source):
    """The texts of a jsonl or parquet file, or of a txt file with one passage per line. Raises UserError."""
    if suffix(source) != ".txt":
        return list(documents(source))
    try:
        return source.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read: {error}") from None


def main():
    parser = arguments(__file__, __doc__, "a local jsonl, txt or parquet file, instead of the Hugging Face hub")
    parser.add_argument("--variant", choices=VARIANTS, default="openai", help="which of the two test sets")
    args = parser.parse_args()
    name, hub, line, sha256, count = VARIANTS[args.variant]
    source, revision = (args.source, None) if args.source else hub_file(*hub)
    texts = passages(source)
    if hashlib.sha256("".join(line(text) + "\n" for text in texts).encode()).hexdigest() != sha256:
        raise UserError(f"{source}: this is not {name}, or not all of it")
    tokenizer, ids, bounds, size = GPT2(), [], [], 0
    for text in texts:
        context, word = text.strip().rsplit(" ", 1)
        context, word = tokenizer.encode_ordinary(context), tokenizer.encode_document(" " + word)
        bounds.append((size, size + len(context), size + len(context) + len(word) - 1))
        ids += [context, word]
        size = bounds[-1][-1] + 1
    write_tokens(
        args.out,
        {"test": ids},
        expected={"test": count},
        arrays={"passages.npy": np.array(bounds)},
        source=name,
        revision=revision,
        source_sha256=sha256,
        **tokenizer.meta,
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
