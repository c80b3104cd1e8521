"""Settings: addresses good and bad, defaults, and the policy that new queues are born with."""

import pytest

from moxy.config import MAX_ATTEMPTS_RANGE, ConfigError, ServeConfig, parse_address
from moxy.core.policy import Policy


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:6380", "127.0.0.1", 6380),
        ("0.0.0.0:6380", "0.0.0.0", 6380),
        ("localhost:1", "localhost", 1),
        ("queue.example.com:65535", "queue.example.com", 65535),
        ("127.0.0.1:0", "127.0.0.1", 0),
        (":6380", "127.0.0.1", 6380),
        (":0", "127.0.0.1", 0),
        ("[::1]:6380", "::1", 6380),
        ("[::]:6380", "::", 6380),
        ("[fe80::1%eth0]:6380", "fe80::1%eth0", 6380),
    ],
)
def test_an_address_is(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6380",
        "localhost",
        "127.0.0.1",
        "127.0.0.1:",
        ":",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+80",
        "127.0.0.1: 80",
        "127.0.0.1:80 ",
        "127.0.0.1:6_380",
        "127.0.0.1:0x50",
        "127.0.0.1:80.0",
        "127.0.0.1:http",
        "127.0.0.1:٦٣٨٠",
        "127.0.0.1:²",
        "[::1]",
        "[::1]6380",
        "::1",
        "::1:6380",
        "[::1:6380",
        "::1]:6380",
        "redis://127.0.0.1:6380/",
        pytest.param("127.0.0.1:" + "9" * 5000, id="a port of 5,000 digits"),
    ],
)
def test_an_address_is_not(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_the_error_is_one_sentence_that_shows_what_was_given() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address("local\nhost")
    assert "HOST:PORT" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "local\\nhost" in str(caught.value)


def test_the_defaults_are_those_of_the_contract() -> None:
    config = ServeConfig()
    assert (config.host, config.port, config.max_attempts) == ("127.0.0.1", 6380, 25)
    assert config.password == ""
    assert config.policy == Policy()


@pytest.mark.parametrize("attempts", [0, 1, 3, 1_000_000_000])
def test_max_attempts_is_in_the_policy_of_new_queues(attempts: int) -> None:
    assert ServeConfig(max_attempts=attempts).policy == Policy(max_attempts=attempts)


def test_the_range_of_max_attempts_is_that_of_the_contract() -> None:
    assert MAX_ATTEMPTS_RANGE == (0, 1_000_000_000)


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        ServeConfig().port = 1  # type: ignore[misc]
