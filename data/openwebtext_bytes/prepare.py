"""The text of another data set as UTF-8 bytes: a vocabulary of 256 plus the end of a document, for small models.

    python data/openwebtext_bytes/prepare.py                                            # of data/openwebtext
    python data/openwebtext_bytes/prepare.py --source data/wikitext --out data/wikitext_bytes
    python data/openwebtext_bytes/prepare.py --source data/lambada --out data/lambada_bytes

Writes the same splits, uint16, and meta.json: of the first --max_tokens of GPT-2's tokens to train on, and of the first
--max_eval_tokens of every other split. With GPT-2's vocabulary, a small model's last layer does nearly all of its work.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.prepared import arguments, write_tokens
from data.tokenizers import GPT2, Bytes
from settings import UserError, one_line_errors


def as_bytes(ids, gpt2):
    """GPT-2's ids -> bytes; a document that ends in the ids ends as in Bytes. Yields arrays."""
    for document in np.split(ids, np.flatnonzero(ids == gpt2.end) + 1):
        whole = len(document) and document[-1] == gpt2.end
        text = gpt2.bpe.decode_bytes(document[:-1].tolist() if whole else document.tolist())
        yield np.append(np.frombuffer(text, np.uint8).astype(np.uint16), [Bytes.end] if whole else []).astype(np.uint16)


def main():
    parser = arguments(__file__, __doc__, "folder of a data set of GPT-2's tokens (default: data/openwebtext)")
    parser.add_argument(
        "--max_tokens", type=int, default=10_000_000, help="of GPT-2's, to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--max_eval_tokens", type=int, default=100_000, help="of GPT-2's, to evaluate on (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.max_tokens < 1 or args.max_eval_tokens < 1:
        raise UserError("--max_tokens and --max_eval_tokens must be at least 1")
    source = args.source or Path(__file__).resolve().parents[1] / "openwebtext"
    if args.source and args.out == Path(__file__).parent and args.source.resolve().name != "openwebtext":
        raise UserError(f"--source {args.source}: name an --out as well, or it overwrites this folder's OpenWebText")
    try:
        meta = json.loads((source / "meta.json").read_text())
        ids = {
            split: np.fromfile(
                source / f"{split}.bin", meta["dtype"], args.max_tokens if split == "train" else args.max_eval_tokens
            )
            for split in meta["counts"]
        }
        tokenizer, text = meta["tokenizer"], meta["source"]
    except OSError as error:
        raise UserError(f"{source} is not prepared: {error.filename} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: its meta.json was not written by a prepare.py: {error}") from None
    if tokenizer != "gpt2":
        raise UserError(f"{source} has other tokens ({tokenizer}) than GPT-2's")
    gpt2, taken = GPT2(), " + ".join(f"{len(array):,}" for array in ids.values())
    write_tokens(
        args.out,
        {split: as_bytes(array, gpt2) for split, array in ids.items()},
        source=f"{text}, as bytes of the first {taken} tokens",
        revision=meta.get("revision"),
        source_sha256=meta.get("source_sha256") or meta.get("sha256"),
        **Bytes.meta,
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
