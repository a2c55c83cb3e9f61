"""Loss, perplexity and LAMBADA accuracy of a checkpoint of train.py, or of gpt2, gpt2-medium, gpt2-large, gpt2-xl.

    python scripts/evaluate.py out/gpt2-mada/ckpt_best.pt --data openwebtext,wikitext,lambada --out results.json
    python scripts/evaluate.py gpt2 --data lambada --dtype float32

"paper": as Table 3 was computed, by the authors' released code: the split as one sequence of tokens, cut into 200 even
chunks; windows of block_size tokens from each chunk's start on, the last of which reaches into the next; the mean of
their losses. Their data are lambada_original and wikitext_lines here.
"strided": every token of the split except the first, once, with a context of at least block_size - stride tokens. The
standard error of this mean is over documents if an id ends them (lines in wikitext_lines), else over runs of block_size
tokens, which makes it a little too small if neighbors are alike.
"last word": each LAMBADA passage by itself; right if every token of its last word is the likeliest one.
Losses are means in nats per token, be that GPT-2's, a byte or a character (last word: per word), and perplexities are
their exponentials: numbers on different tokens cannot be compared. LAMBADA and WikiText have two variants each: lambada
(OpenAI's) and wikitext (running text) add the other one if it is prepared.
"""

import argparse
import datetime
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import data.tokens
from data.prepared import writing
from data.tokenizers import kind
from data.tokens import Tokens
from devices import has_bfloat16, here, report_out_of_memory, resolve_dtype
from model import GPT
from pretrained import check_tokens, load
from settings import UserError, one_line_errors

VARIANTS = {"wikitext_lines": "lines", "lambada_original": "original"}  # data set: --variant of its prepare.py
DATA = "openwebtext,wikitext,lambada"  # of a model with GPT-2's tokens
TEST_SETS = ("wikitext", "lambada")  # of which, and of what is made of them, the split is "test"; of others "val"


def open_data(name: str, model: GPT, meta: dict) -> Tokens:
    """The split of a data set that is evaluated. Raises UserError if it is not prepared, or not for this model."""
    folder = os.path.join(data.tokens.FOLDER, name)
    base = name.partition("_")[0]
    if name in VARIANTS and not os.path.exists(os.path.join(folder, "meta.json")):
        raise UserError(
            f"data/{name} is missing; run: python data/{base}/prepare.py --variant {VARIANTS[name]} --out data/{name}"
        )
    split = data.tokens.split(name, "test" if base in TEST_SETS else "val", model.config.block_size)
    check_tokens(name, split.meta, meta)
    return split


class Evaluation:
    """A model on a device, in batches of batch_size rows, under autocast to dtype (a name of torch's)."""

    def __init__(self, model: GPT, batch_size: int = 8, dtype: str = "float32"):
        self.model, self.batch_size, self.device = model, batch_size, model.lm_head.weight.device
        _, self.autocast = resolve_dtype(dtype, self.device.type)

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, T, vocab_size)"""
        with self.autocast:
            return self.model(tokens.to(self.device))

    def window_losses(self, split: Tokens, starts: np.ndarray, name: str) -> Iterator[np.ndarray]:
        """Losses of the targets of the windows at starts: yields arrays (block_size,), one by one."""
        for i in tqdm(range(0, len(starts), self.batch_size), desc=name, disable=None):
            x, y = split.windows(starts[i : i + self.batch_size])
            rows = [
                F.cross_entropy(row.float(), target, reduction="none")  # row by row: half the memory
                for row, target in zip(self.logits(x), y.to(self.device))
            ]
            yield from torch.stack(rows).cpu().double().numpy()

    def paper(self, split: Tokens) -> tuple[float, int]:
        """As Table 3: the mean loss, and the number of windows."""
        chunks = min(200, split.size - split.block_size)
        chunk = (split.size - split.block_size) // chunks
        starts = np.concatenate([np.arange(k * chunk, (k + 1) * chunk, split.block_size) for k in range(chunks)])
        return np.mean([row.mean() for row in self.window_losses(split, starts, "as in the paper")]), len(starts)

    def strided(self, split: Tokens, stride: int) -> np.ndarray:
        """Losses of all tokens of the split but the first: (size - 1,)."""
        last = split.size - 1 - split.block_size
        starts = np.append(np.arange(0, last, stride), last)
        losses, done = np.empty(split.size), 1  # loss of each token; how many are done
        for start, row in zip(starts, self.window_losses(split, starts, "strided")):
            end = start + split.block_size + 1
            losses[done:end] = row[done - start - 1 :]
            done = end
        return losses[1:]

    def last_words(self, split: Tokens, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """passages (n, 3): where each begins, its last word begins, it ends -> words' losses, right or not: (n,)."""
        ids = np.fromfile(split.path, split.meta["dtype"]).astype(np.int64)
        losses, right = np.empty(len(passages)), np.empty(len(passages), bool)
        order = np.argsort(passages[:, 0] - passages[:, 2])  # longest first, so that there is little padding
        for i in tqdm(range(0, len(order), self.batch_size), desc="last words", disable=None):
            batch = order[i : i + self.batch_size]
            rows = [
                torch.from_numpy(ids[max(start, end - split.block_size) : end]) for start, _, end in passages[batch]
            ]
            logits = self.logits(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
            for j, row, scores, (_, word, end) in zip(batch, rows, logits, passages[batch]):
                target = row[word - end :].to(self.device)  # the word's tokens; each is predicted one place before
                scores = scores[len(row) - len(target) - 1 : len(row) - 1].float()
                losses[j] = F.cross_entropy(scores, target, reduction="sum").item()
                right[j] = (scores.argmax(-1) == target).all().item()
        return losses, right


def standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Of the mean of values (n,), if groups (n,) of them are independent: that of the ratio of their sums and sizes."""
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    spread = ((sums - values.mean() * sizes) ** 2).sum() * len(sums) / (len(sums) - 1) if len(sums) > 1 else math.nan
    return math.sqrt(spread) / len(values)


def evaluate(evaluation: Evaluation, split: Tokens, stride: int) -> dict:
    """Everything about one split, as a dict of numbers."""
    loss, windows = evaluation.paper(split)
    result = {
        "source": split.meta["source"],
        "tokens": split.size,
        "paper": {"loss": loss, "perplexity": math.exp(loss), "windows": windows},
    }

    losses = evaluation.strided(split, stride)
    ends = np.fromfile(split.path, split.meta["dtype"])[:-1] == kind(split.meta).end
    groups, unit = (
        (ends.cumsum(), "documents") if ends.any() else (np.arange(len(losses)) // split.block_size, "windows")
    )
    result["strided"] = {**mean(losses, groups), "se_over": unit, "groups": len(np.unique(groups))}

    passages = os.path.join(os.path.dirname(split.path), "passages.npy")
    if os.path.exists(passages):
        losses, right = evaluation.last_words(split, np.load(passages))
        each = np.arange(len(right))
        result["last_word"] = {
            **mean(losses, each),
            "accuracy": right.mean(),
            "accuracy_se": standard_error(right.astype(float), each),
            "passages": len(right),
        }
    return result


def mean(losses, groups):
    """Loss and perplexity with their standard errors."""
    loss, error = losses.mean(), standard_error(losses, groups)
    perplexity = math.exp(loss)
    return {"loss": loss, "loss_se": error, "perplexity": perplexity, "perplexity_se": perplexity * error}


def table(results):
    """The results {name: evaluate(...)} as lines of text."""

    def line(name, *cells):
        return f"{name:16}" + "".join(f" {cell:>{width}}" for width, cell in zip((8, 10, 17, 17, 13, 10), cells))

    yield line("", "paper", "", "strided", "", "last word")
    yield line("data", "loss", "perplexity", "loss", "perplexity", "accuracy (%)", "perplexity")
    for name, result in results.items():
        paper, strided = result["paper"], result["strided"]
        cells = [
            f"{paper['loss']:.4f}",
            f"{paper['perplexity']:.2f}",
            f"{strided['loss']:.4f} ± {strided['loss_se']:.4f}",
            f"{strided['perplexity']:.2f} ± {strided['perplexity_se']:.2f}",
        ]
        if word := result.get("last_word"):
            cells += [f"{100 * word['accuracy']:.2f} ± {100 * word['accuracy_se']:.2f}", f"{word['perplexity']:.2f}"]
        yield line(name, *cells)
    for name, result in results.items():
        yield (
            f"{name}: {result['source']}, {result['tokens']:,} tokens; "
            f"s.e. over {result['strided']['groups']:,} {result['strided']['se_over']}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, a run's out_dir, or gpt2, gpt2-medium, gpt2-large, gpt2-xl")
    parser.add_argument("--data", help="folders of data/, with commas between (default: " + DATA + ")")
    parser.add_argument(
        "--stride", type=int, help="tokens between strided windows (default: half the model's block_size)"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="windows that go through the model at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="of products; auto: bfloat16 on GPUs that have it, else float32",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write the numbers to")
    args = parser.parse_args()
    model, meta = load(args.model, args.device)
    unit = kind(meta).unit
    device, dtype = str(model.lm_head.weight.device), args.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") and has_bfloat16() else "float32"
    block_size = model.config.block_size
    stride = block_size // 2 if args.stride is None else args.stride
    if not 1 <= stride <= block_size or args.batch_size < 1:
        raise UserError(f"--stride must be 1 to {block_size}, the model's block_size; --batch_size at least 1")
    if args.out and (os.path.isdir(args.out) or not os.access(args.out.parent, os.W_OK)):
        raise UserError(f"--out {args.out}: no file can be written there")
    if args.data is None and meta["tokenizer"] != "gpt2":
        raise UserError(f"--data: name a data set of {meta['tokenizer']} tokens, as {args.model} was trained on")
    names = (args.data or DATA).split(",")
    names += [
        name
        for name in VARIANTS
        if name not in names
        and name.partition("_")[0] in names
        and os.path.exists(os.path.join(data.tokens.FOLDER, name, "meta.json"))
    ]
    splits = {name: open_data(name, model, meta) for name in names}  # all of them before the long part

    results = {
        name: evaluate(Evaluation(model, args.batch_size, dtype), split, stride) for name, split in splits.items()
    }
    if args.out:
        found = {
            "model": args.model,
            "unit": unit,
            "block_size": block_size,
            "stride": stride,
            "dtype": dtype,
            **here(device),
            "date": f"{datetime.date.today()}",
            "data": results,
        }
        with writing(args.out):
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{args.model}: windows of {block_size} {unit}s, strided by {stride}, in {dtype} on {device}; "
        f"losses in nats per {unit}"
    )
    print(*table(results), sep="\n")


if __name__ == "__main__":
    with one_line_errors(__file__), report_out_of_memory("a smaller --batch_size takes less"):
        main()
