"""Glob patterns: what they match, compared with another reading of them, and that no pattern takes for ever.

What lives here: transcripts of patterns as Redis has them, and a second, naive matcher. What must not live here:
QUEUES, which uses them.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moxy.core.globs import matches

# Asked of a Redis 7 with KEYS, also where the answer surprises: the end of a range may be the bracket.
MATCH = [
    # pattern, what fits, what does not
    ("jobs", ("jobs",), ("", "job", "jobs2", "Jobs")),
    ("", ("",), ("a",)),
    ("*", ("", "a", "gr\xfcn:1"), ()),
    ("**", ("", "a"), ()),
    ("a*", ("a", "ab", "a*"), ("", "ba")),
    ("*b", ("b", "ab", "bb"), ("", "ba")),
    ("a*b*c", ("abc", "axxbyyc", "abbcc", "abcbc"), ("ac", "abcd", "acb")),
    ("?", ("a", "\xfc", "*"), ("", "ab")),
    ("a?c", ("abc", "a?c"), ("ac", "abbc")),
    ("*?", ("a", "ab"), ("",)),
    ("[abc]x", ("ax", "cx"), ("x", "dx", "abx")),
    ("[a-c]", ("a", "b", "c"), ("d", "-", "")),
    ("[c-a]", ("a", "b", "c"), ("d",)),
    ("[^a-c]", ("d", "-", "^"), ("a", "c", "")),
    ("[a-]", ("a", "]", "^"), ("b", "-")),
    ("[-a]", ("a", "-"), ("b",)),
    ("[]", (), ("", "a", "[]")),
    ("[^]", ("a", "]"), ("",)),
    ("[ab", ("a", "b"), ("c", "[ab")),
    ("[", (), ("", "[")),
    ("[\\]]", ("]",), ("\\", "a")),
    ("[\\a-c]", ("a", "-", "c"), ("b", "\\")),
    ("[a\\-c]", ("a", "-", "c"), ("b", "\\")),
    ("[*?]", ("*", "?"), ("a",)),
    ("\\*", ("*",), ("a", "\\*")),
    ("\\?a", ("?a",), ("ba",)),
    ("\\[a]", ("[a]",), ("a",)),
    ("\\\\", ("\\",), ("\\\\",)),
    ("a\\", ("a\\",), ("a",)),
    ("*[0-9]", ("jobs1", "9"), ("jobs", "1a")),
    ("*a*[bc]?d", ("xaxbyd", "abcd"), ("abd", "xxcyd")),
]


@pytest.mark.parametrize(("pattern", "fit", "unfit"), MATCH, ids=[pattern or "nothing" for pattern, _, _ in MATCH])
def test_a_pattern_fits_the_whole_of_a_text_or_not(pattern: str, fit: tuple[str, ...], unfit: tuple[str, ...]) -> None:
    assert [text for text in fit if not matches(pattern, text)] == []
    assert [text for text in unfit if matches(pattern, text)] == []


def naive(pattern: str, text: str) -> bool:
    """The same by taking apart and trying everything. For patterns without classes, which the table above tells."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive(pattern[1:], text[at:]) for at in range(len(text) + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        return text[:1] == pattern[1] and naive(pattern[2:], text[1:])
    return bool(text) and pattern[0] in ("?", text[0]) and naive(pattern[1:], text[1:])


@given(st.text("ab*?\\", max_size=8), st.text("ab*\\", max_size=8))
@example("*a*b", "aabab")
@example("a\\", "a\\")
def test_it_fits_what_a_naive_matcher_fits(pattern: str, text: str) -> None:
    assert matches(pattern, text) == naive(pattern, text)


@given(st.text(max_size=20))
def test_a_text_with_every_character_meant_as_it_is_fits_itself_alone(text: str) -> None:
    pattern = "".join(f"\\{char}" for char in text)
    assert matches(pattern, text)
    assert not matches(pattern, text + "x")


def test_an_unkind_pattern_costs_pattern_times_text_and_not_more() -> None:
    """Counted, not timed: each look at a character of the text is one step."""

    class Counted(str):
        looks = 0

        def __getitem__(self, at: object) -> str:
            Counted.looks += 1
            return super().__getitem__(at)  # type: ignore[index]

    pattern, text = "*a" * 50 + "b", Counted("a" * 500)
    assert not matches(pattern, text)
    assert Counted.looks <= len(pattern) * len(text)
