"""The address of Redis: every form, what is refused, and that no password is ever shown."""

import pytest

from moxy.backends.redis.address import Address, AddressError, Tls, parse_redis_address

FORMS = [
    ("localhost:7000", Address("redis", (("localhost", 7000),)), "redis://localhost:7000"),
    ("localhost", Address("redis", (("localhost", 6379),)), "redis://localhost:6379"),
    (" [::1]:7000 ", Address("redis", (("::1", 7000),)), "redis://[::1]:7000"),
    ("redis://h:1/3", Address("redis", (("h", 1),), db=3), "redis://h:1/3"),
    ("redis://h:1/", Address("redis", (("h", 1),)), "redis://h:1"),
    ("redis://h:1?db=4", Address("redis", (("h", 1),), db=4), "redis://h:1/4"),
    ("redis://:secret@h", Address("redis", (("h", 6379),), password="secret"), "redis://:***@h:6379"),
    ("redis://u:s%40%2Fe@h", Address("redis", (("h", 6379),), username="u", password="s@/e"), "redis://u:***@h:6379"),
    ("redis://u:a@/b:@h", Address("redis", (("h", 6379),), username="u", password="a@/b:"), "redis://u:***@h:6379"),
    ("redis://h?password=secret", Address("redis", (("h", 6379),), password="secret"), "redis://:***@h:6379"),
    ("redis://h?socket_timeout=1.5", Address("redis", (("h", 6379),), reply_s=1.5), "redis://h:6379"),
    ("redis://h?socket_connect_timeout=9", Address("redis", (("h", 6379),), connect_s=9), "redis://h:6379"),
    ("rediss://h", Address("redis", (("h", 6379),), tls=Tls()), "rediss://h:6379"),
    (
        "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=optional&ssl_check_hostname=false",
        Address("redis", (("h", 6379),), tls=Tls("/ca.pem", ssl_cert_reqs="optional", ssl_check_hostname=False)),
        "rediss://h:6379",
    ),
    ("unix:///run/r.sock", Address("unix", path="/run/r.sock"), "unix:///run/r.sock"),
    (
        "unix://u:secret@/run/r%20s?db=2",
        Address("unix", path="/run/r s", db=2, username="u", password="secret"),
        "unix://u:***@/run/r s?db=2",
    ),
    (
        "sentinel://:secret@a:1,b/mymaster/5?sentinel_password=other",
        Address(
            "sentinel",
            (("a", 1), ("b", 26379)),
            master="mymaster",
            db=5,
            password="secret",
            sentinel_password="other",
        ),
        "sentinel://:***@a:1,b:26379/mymaster/5",
    ),
    ("sentinels://a/m", Address("sentinel", (("a", 26379),), master="m", tls=Tls()), "sentinels://a:26379/m"),
    ("cluster://a:1,[::2]:3", Address("cluster", (("a", 1), ("::2", 3))), "cluster://a:1,[::2]:3"),
    ("clusters://u@a", Address("cluster", (("a", 6379),), username="u", tls=Tls()), "clusters://u@a:6379"),
]


@pytest.mark.parametrize(("text", "address", "display"), FORMS, ids=[form[0] for form in FORMS])
def test_every_form_is_read_and_shown_without_its_secrets(text: str, address: Address, display: str) -> None:
    assert parse_redis_address(text) == address
    assert address.display == display
    assert display in repr(address)
    for shown in (repr(address), str(address), str(address.__rich_repr__())):
        assert "secret" not in shown
        assert "other" not in shown


WRONG = [
    ("", "hosts and ports"),
    ("h:0", "ports from 1 to 65535"),
    ("h:65536", "ports from 1 to 65535"),
    ("h:port", "ports from 1 to 65535"),
    ("redis://", "hosts and ports"),
    ("redis://a,b", "takes one host"),
    ("http://h", "is one of"),
    ("redis://h/x", "number from 0"),
    ("redis://h/-1", "number from 0"),
    ("redis://h/1/2", "one path"),
    ("redis://:hunter2?hunter3@h", "is one of: db"),
    ("redis://u:hunter2?db=1@h", "number from 0"),
    ("redis://u:hunter2@h:6379@", "%3F for ? in a password"),
    ("redis://h?db=hunter2", "number from 0"),
    ("redis://h?ssl_ca_certs=/x", "an option of the address of Redis is one of: db, username"),
    ("redis://h?hunter2=1", "is one of: db"),
    ("redis://h?sentinel_password=hunter2", "is one of: db"),
    ("redis://h?socket_timeout=hunter2", "option socket_timeout"),
    ("redis://h?socket_timeout=0", "option socket_timeout"),
    ("rediss://h?ssl_cert_reqs=hunter2", "option ssl_cert_reqs"),
    ("rediss://h?ssl_check_hostname=hunter2", "option ssl_check_hostname"),
    ("unix://relative", "absolute path"),
    ("unix://", "absolute path"),
    ("sentinel://h:1", "master's name"),
    ("sentinel://h:1/m/x", "number from 0"),
    ("sentinel://h:1/m/0/1", "one path"),
    ("cluster://h/1", "only database 0"),
    ("cluster://h,,i", "hosts and ports"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[wrong[0] for wrong in WRONG])
def test_what_cannot_be_is_one_sentence_that_repeats_no_secret(text: str, sentence: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_redis_address(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter" not in str(caught.value)
