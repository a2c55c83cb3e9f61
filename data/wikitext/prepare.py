"""GPT-2 tokens of WikiText-2's raw test split, for evaluation. There are two, whose numbers cannot be compared:

    python data/wikitext/prepare.py [--source wiki.test.raw] [--out DIR]        # the articles, without blank lines
    python data/wikitext/prepare.py --variant lines   # every line, also blank, ended by 50256

The second is what the paper's authors evaluated on. Writes test.bin and meta.json. Expected: test 283,287 tokens, or
287,645: one more for each of the 4,358 lines.
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.documents import documents
from data.prepared import arguments, hub_file, write_tokens
from data.tokenizers import GPT2
from settings import UserError, one_line_errors

HUB = (
    "Salesforce/wikitext",
    "b08601e04326c79dfdd32d625aee71d232d685c3",
    "wikitext-2-raw-v1/test-00000-of-00001.parquet",
)
SHA256 = "bbf94c53a05abe9ee670d3b6343608095822c85e26de37c70b24fc571964574a"  # of the text
LINES = 4358
TOKENS = 283_287


def wikitext(source):
    """The lines, blank ones as "": the same from the hub's rows and from wiki.test.raw, if that has its blank lines.

    Raises UserError if this is another text.
    """
    if source:
        try:
            lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{source}: cannot be read: {error}") from None
    else:
        source, _ = hub_file(*HUB)
        lines = documents(source)
    lines = [line if line.strip() else "" for line in lines]
    if hashlib.sha256("".join(lines).encode()).hexdigest() != SHA256:
        raise UserError(f"{source}: this is not the text of WikiText-2's raw test split, or not all of it")
    return lines


def main():
    parser = arguments(__file__, __doc__, "a local wiki.test.raw, instead of the Hugging Face hub")
    parser.add_argument("--variant", choices=("text", "lines"), default="text", help="which of the two")
    args = parser.parse_args()
    lines, tokenizer = wikitext(args.source), GPT2()
    name, count = "WikiText-2 raw, test split (Salesforce/wikitext)", TOKENS
    if args.variant == "text":
        ids = [tokenizer.encode_ordinary("".join(lines))]
    else:
        if len(lines) != LINES:
            raise UserError(
                f"{args.source or HUB[0]}: {len(lines):,} lines instead of {LINES:,}: blank ones are missing"
            )
        ids = [tokenizer.encode_document(line) for line in lines]
        name, count = f"{name}, each line ended by {tokenizer.end}", TOKENS + LINES
    write_tokens(
        args.out,
        {"test": ids},
        expected={"test": count},
        source=name,
        revision=HUB[1],
        source_sha256=SHA256,
        **tokenizer.meta,
    )


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
