"""GPT-2 tokens of WikiText-2's raw test split, for evaluation: the articles as they are, without blank lines between.

    python data/wikitext/prepare.py [--source wiki.test.raw] [--out DIR]

Writes test.bin and meta.json. Expected: test 283,287 tokens.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from config import UserError, one_line_errors
from data.documents import documents
from data.prepared import GPT2_VOCAB, arguments, gpt2_tokenizer, hub_file, write_tokens

HUB = ("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", "wikitext-2-raw-v1/test-00000-of-00001.parquet")
SHA256 = "bbf94c53a05abe9ee670d3b6343608095822c85e26de37c70b24fc571964574a"  # of the text
COUNTS = {"test": 283_287}


def wikitext(source):
    """The text, which is the same from the hub's rows and from wiki.test.raw with whatever line ends. Raises UserError."""
    if source:
        try:
            lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{source}: cannot be read: {error}") from None
    else:
        source, _ = hub_file(*HUB)
        lines = documents(source)
    text = "".join(line for line in lines if line.strip())
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise UserError(f"{source}: this is not the text of WikiText-2's raw test split, or not all of it")
    return text


def main():
    args = arguments(__file__, __doc__, "a local wiki.test.raw, instead of the Hugging Face hub").parse_args()
    text = wikitext(args.source)
    ids = np.array(gpt2_tokenizer().encode_ordinary(text))
    write_tokens(args.out, {"test": [ids]}, GPT2_VOCAB, COUNTS, tokenizer="gpt2",
                 source="WikiText-2 raw, test split (Salesforce/wikitext)", revision=HUB[1], sha256=SHA256)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
