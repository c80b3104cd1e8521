"""What the table says about itself: COMMAND, COMMAND DOCS, and the protocol page.

Lives here: readings of wire/table for clients and for people. Must not: state a fact about a verb that is not in its
row.
"""

import re
from typing import Final

from moxy import __version__
from moxy.core.errors import CODES
from moxy.wire.resp import Simple, Value
from moxy.wire.table import ROWS, Row

_QUEUE_FIRST: Final = re.compile(r"queue\b")


def command_info(row: Row) -> Value:
    """One entry of COMMAND: ten fields, as Redis 7 has them. The queue is the key that a cluster client routes by."""
    keyed = int(_QUEUE_FIRST.match(row.syntax) is not None)
    categories = [f"@{flag}" for flag in ("write", "fast", "blocking") if flag in row.flags]
    flags: Value = [*row.flags]
    return [row.name.lower(), row.arity, flags, keyed, keyed, keyed, categories, [], [], []]


def command_doc(row: Row) -> dict[str, Value]:
    """One entry of COMMAND DOCS, from which redis-cli makes its hints."""
    ours = row.name.startswith("MOXY.")
    doc: dict[str, Value] = {
        "summary": row.summary,
        "since": __version__ if ours else "1.0.0",
        "group": "module" if ours else "connection",
        "complexity": "O(log N)" if ours else "O(1)",
    }
    if row.syntax:
        doc["arguments"] = parse_syntax(row.syntax)
    return doc


def parse_syntax(syntax: str) -> list[Value]:
    """A syntax line as Redis' argument descriptions.

    `name` is an argument, `[...]` is optional, `WORD x` a token with a value, `a | b` a choice of tokens, `a|b` a
    choice of words, and `[x ...]` after its twin says that the one before may come several times.
    """
    arguments: list[dict[str, Value]] = []
    for group in _split(syntax):
        if group.startswith("["):
            inner = group[1:-1]
            if inner.endswith(" ...]") or inner.endswith("..."):
                head = re.sub(r"\s*(\[.*\])?\s*(\.\.\.)?\s*$", "", inner)
                last = arguments[-1] if arguments else None
                if last is not None and last["name"] == head:
                    last["flags"] = [Simple("multiple")]
                    continue
                inner = head
                arguments.append({**_argument(inner), "flags": [Simple("optional"), Simple("multiple")]})
                continue
            arguments.append({**_argument(inner), "flags": [Simple("optional")]})
        else:
            arguments.append(_argument(group))
    return [*arguments]


def _split(syntax: str) -> list[str]:
    """Words and bracketed groups of the top level."""
    groups: list[str] = []
    depth, start = 0, 0
    for at, char in enumerate(syntax + " "):
        depth += (char == "[") - (char == "]")
        if char == " " and depth == 0:
            if at > start:
                groups.append(syntax[start:at])
            start = at + 1
    return groups


def _argument(text: str) -> dict[str, Value]:
    if " | " in text:
        choices = [_argument(choice) for choice in text.split(" | ")]
        name = "-or-".join(str(choice["name"]) for choice in choices)
        return {"name": name, "type": "oneof", "arguments": [*choices]}
    parts = _split(text)
    if parts[0].isupper() and len(parts) == 1:
        return {"name": parts[0].lower(), "type": "pure-token", "token": parts[0]}
    if parts[0].isupper():
        value = parts[1] if len(parts) == 2 else " ".join(parts[1:])
        return {"name": value, "type": "string", "token": parts[0], "display_text": value}
    return {"name": text, "type": "string", "display_text": text}


def protocol_tables() -> str:
    """The tables of docs/protocol.md: commands, connection commands, error codes."""
    lines = ["### Queue commands", "", "| command | what it does | reply |", "| --- | --- | --- |"]
    lines += [_line(row) for row in ROWS if row.parse is not None]
    lines += ["", "### Connection commands", "", "| command | what it does | reply |", "| --- | --- | --- |"]
    lines += [_line(row) for row in ROWS if row.parse is None]
    lines += ["", "### Error codes", "", "| code | when |", "| --- | --- |"]
    lines += [f"| `{code}` | {when} |" for code, when in CODES.items()]
    return "\n".join(lines)


def _line(row: Row) -> str:
    call = f"`{row.name} {row.syntax}".rstrip() + "`"
    cells = (call, row.summary, row.reply_doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
