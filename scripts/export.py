"""Write a checkpoint of train.py as a folder of transformers' GPT-2: config.json, model.safetensors, and a README.md.

    python scripts/export.py out/gpt2-mada/ckpt_best.pt exported/gpt2-mada

GPT2LMHeadModel.from_pretrained(FOLDER) then has the same logits, and every script here takes FOLDER where it takes "gpt2".
Their GPT-2 always has biases: a model without gets zeros. The vocabulary stays as it is.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from checkpoints import load
from data.prepared import writing
from settings import UserError, one_line_errors


def note(name, model, meta):
    """The README.md of the exported folder: what the model's tokens are."""
    if meta["tokenizer"] == "gpt2":
        tokens = 'Tokens are GPT-2\'s: `GPT2TokenizerFast.from_pretrained("gpt2")` is the tokenizer.'
        if model.config.vocab_size > meta["vocab_size"]:
            tokens += (
                f" The model has {model.config.vocab_size:,} ids; those from {meta['vocab_size']:,} on are no token's, "
                "and were not trained."
            )
    else:
        tokens = f"Tokens are single characters, with ids from 0 on in this order: {meta['chars']!r}"
    return f"A GPT-2 of {model.num_params():,} parameters, from {os.path.basename(name)}.\n\n{tokens}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint of train.py")
    parser.add_argument("folder", type=Path, help="where to write; it must not exist yet")
    args = parser.parse_args()
    if args.folder.exists():
        raise UserError(f"{args.folder} exists already")
    model, meta = load(args.checkpoint)
    part = args.folder.with_name(args.folder.name + ".part")  # the folder is there when it is whole
    with writing(args.folder):
        part.mkdir(parents=True, exist_ok=True)
        model.to_transformers().save_pretrained(part)
        (part / "README.md").write_text(note(args.checkpoint, model, meta))
        os.replace(part, args.folder)
    print(args.folder)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
