"""Let a model write: a checkpoint of train.py, or OpenAI's gpt2, gpt2-medium, gpt2-large, gpt2-xl.

python scripts/sample.py out/shakespeare-char-cpu/ckpt_best.pt --prompt "ROMEO:" --temperature 0.8 --top_k 40
python scripts/sample.py gpt2-xl --prompt "What is the answer to life?" --tokens 100
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.documents import SEPARATOR
from data.tokenizers import tokenizer
from pretrained import load
from settings import UserError, one_line_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, a run's out_dir, or gpt2, gpt2-medium, gpt2-large, gpt2-xl")
    parser.add_argument(
        "--prompt",
        help="text to continue; default: the start of a document, <|endoftext|>, or for a character model a new line",
    )
    parser.add_argument(
        "--tokens", type=int, default=500, help="tokens to write; <|endoftext|> ends the text before that"
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="below 1 is safer, 0 always takes the likeliest")
    parser.add_argument("--top_k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.tokens < 1 or (args.top_k is not None and args.top_k < 1):
        raise UserError("--tokens and --top_k must be at least 1")
    if args.temperature != 0 and not 1e-3 <= args.temperature <= 1e3:
        raise UserError(f"--temperature {args.temperature:g}: must be 0, or lie from 0.001 to 1000")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed}: must lie from 0 to 2**63 - 1")
    if args.prompt == "":
        raise UserError("--prompt must have at least one character")

    model, meta = load(args.model, args.device)
    words = tokenizer(meta)
    prompt = args.prompt or ("\n" if words.end is None else SEPARATOR)
    tokens = torch.tensor([words.encode(prompt)], device=model.lm_head.weight.device)
    torch.manual_seed(args.seed)
    out = model.generate(tokens, args.tokens, args.temperature, args.top_k, meta["vocab_size"])[0]
    print(prompt.removeprefix(SEPARATOR) + words.decode(out[tokens.size(1) :].tolist()).partition(SEPARATOR)[0])


if __name__ == "__main__":
    with one_line_errors(__file__):
        main()
