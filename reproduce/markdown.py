"""Tables as Markdown."""


def markdown(head: list, lines: list[list]) -> str:
    """A table; `head` and each of `lines` are its cells."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *lines))
