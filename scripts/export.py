"""Write a checkpoint of train.py as a folder of transformers' GPT-2, with its tokenizer.

    python scripts/export.py out/gpt2-mada/ckpt_best.pt exported/gpt2-mada

AutoModelForCausalLM.from_pretrained(FOLDER) and AutoTokenizer.from_pretrained(FOLDER) then have the same logits and the
same ids, for GPT-2's tokens, bytes and characters, and every script here takes FOLDER where it takes "gpt2". Their
GPT-2 always has biases: a model without any gets zeros. The vocabulary stays as it is; ids beyond the tokenizer's are
never generated.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.prepared import writing
from data.tokenizers import tokenizer
from model import GPT
from pretrained import load
from settings import UserError, one_line, one_line_errors


def note(name: str, model: GPT, meta: dict) -> str:
    """The README.md of the exported folder."""
    own, known, size = model.config.vocab_size, meta["vocab_size"], sum(p.numel() for p in model.parameters())
    lines = [
        f"A GPT-2 of {size:,} parameters, from {os.path.basename(name)}, trained on {meta.get('source')}.",
        f"Its tokens are {meta['tokenizer']}'s, {known:,} of them; `AutoTokenizer` has them from this folder.",
    ]
    if own > known:
        lines.append(f"The model has {own:,} ids; those from {known:,} on have no token, and were not trained.")
    return "\n\n".join(lines) + "\n"


def for_transformers(model: GPT, meta: dict) -> tuple:
    """transformers' model and tokenizer, which end a text where this one does, and generate only ids of tokens."""
    ours, theirs = tokenizer(meta), model.to_transformers()
    for config in (theirs.config, theirs.generation_config):
        config.bos_token_id = config.eos_token_id = ours.end
    theirs.generation_config.pad_token_id = ours.end
    theirs.generation_config.suppress_tokens = list(range(meta["vocab_size"], model.config.vocab_size)) or None
    words = ours.to_transformers()
    words.model_max_length = model.config.block_size
    return theirs, words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint of train.py")
    parser.add_argument("folder", type=Path, help="where to write; it must not exist yet")
    args = parser.parse_args()
    if os.path.lexists(args.folder):
        raise UserError(f"{args.folder} exists already")
    model, meta = load(args.checkpoint)
    parts = for_transformers(model, meta)
    part = args.folder.with_name(args.folder.name + ".part")  # the folder is there when it is whole
    try:
        with writing(args.folder):
            if os.path.lexists(part):  # of a process that was killed
                os.unlink(part) if part.is_symlink() else shutil.rmtree(part)
            part.mkdir(parents=True)
            for theirs in parts:
                try:
                    theirs.save_pretrained(part)
                except Exception as error:
                    raise UserError(f"{args.folder}: cannot be written: {one_line(error)}") from error
            (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")  # for the scripts here
            (part / "README.md").write_text(note(args.checkpoint, model, meta))
            os.replace(part, args.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(args.folder)


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
