"""Redis' glob patterns: `*`, `?`, `[abc]`, `[a-c]`, `[^a]`, and `\\` before a character that is meant as it is.

Lives here: matching, in time proportional to pattern times text at worst, whatever the pattern. Must not: compile to a
regular expression, which an unkind pattern can make exponential.
"""


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` fits `pattern`."""
    at = p = 0
    star, resume = -1, 0  # the last `*` seen, and where the text goes on when it swallows one character more
    while at < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, at
            p += 1
            continue
        fits, end = _one(pattern, p, text[at]) if p < len(pattern) else (False, p)
        if fits:
            at, p = at + 1, end
        elif star >= 0:
            resume += 1
            at, p = resume, star + 1
        else:
            return False
    return all(char == "*" for char in pattern[p:])


def _one(pattern: str, p: int, char: str) -> tuple[bool, int]:
    """Whether the element of the pattern at `p` fits one character, and where the next element begins."""
    if pattern[p] == "?":
        return True, p + 1
    if pattern[p] == "[":
        return _class(pattern, p + 1, char)
    if pattern[p] == "\\" and p + 1 < len(pattern):
        p += 1
    return pattern[p] == char, p + 1


def _class(pattern: str, p: int, char: str) -> tuple[bool, int]:
    """The same for a class whose first character is at `p`. Without its `]` it ends with the pattern, as in Redis."""
    negated = pattern[p : p + 1] == "^"
    p += negated
    found = False
    while p < len(pattern) and pattern[p] != "]":
        escaped = pattern[p] == "\\" and p + 1 < len(pattern)
        p += escaped
        low = high = pattern[p]
        if not escaped and p + 2 < len(pattern) and pattern[p + 1] == "-":
            low, high = sorted((low, pattern[p + 2]))
            p += 2
        found = found or low <= char <= high
        p += 1
    return found != negated, min(p + 1, len(pattern))
