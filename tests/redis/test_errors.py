"""The table of what Redis can answer instead, against redis-py's own reading of those answers."""

import pytest
from redis._parsers import BaseParser

from moxy.backends.redis.errors import TABLE, UNKNOWN, Missed, code_of, down, refusal, row_of

WORDS = {
    "MOVED": "MOVED 3999 127.0.0.1:6381",
    "ASK": "ASK 3999 127.0.0.1:6381",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
}


@pytest.mark.parametrize("code", TABLE)
def test_every_row_is_found_from_what_redis_py_makes_of_the_reply(code: str) -> None:
    error = BaseParser.parse_error(WORDS.get(code, f"{code} some text"))
    assert code_of(error) == code
    assert row_of(error) is TABLE[code]
    assert refusal(error).code == "BACKEND"
    assert refusal(error).text == f"{TABLE[code].sentence}: nothing happened, try again"


def test_before_redis_7_a_script_wraps_the_error_of_its_command() -> None:
    error = BaseParser.parse_error(
        "ERR Error running script (call to f_8b5e): @user_script:1: @user_script: 1: -OOM command not allowed"
    )
    assert row_of(error) is TABLE["OOM"]


def test_an_error_that_nobody_foresaw_is_shown_and_promises_nothing() -> None:
    error = BaseParser.parse_error("ERR user_script:1: Script attempted to access nonexistent global variable 'x'")
    assert row_of(error) is UNKNOWN
    assert "nonexistent global variable 'x'" in refusal(error).text
    assert refusal(error).text.endswith("whether it happened, or still will, is unknown")
    assert down(error).unknown


def test_a_script_may_refuse_with_a_code_of_moxy() -> None:
    refused = refusal(BaseParser.parse_error("NOLEASE the lease is void"))
    assert (refused.code, refused.text) == ("NOLEASE", "the lease is void")


@pytest.mark.parametrize("code", ["READONLY", "NOAUTH", "NOPERM", "WRONGPASS"])
def test_a_code_that_redis_has_too_is_never_taken_for_one_of_moxy(code: str) -> None:
    assert refusal(BaseParser.parse_error(WORDS.get(code, f"{code} text"))).code == "BACKEND"


@pytest.mark.parametrize(("sent", "unknown"), [(False, False), (True, True)])
def test_a_lost_connection_is_uncertain_only_when_the_call_had_left(sent: bool, unknown: bool) -> None:
    missed = Missed("gone", sent)
    assert down(missed).unknown is unknown
    assert ("nothing happened" in refusal(missed).text) is not unknown
    assert "gone" in refusal(missed).text
