"""The parser, a command, and the encoder, a reply: RESP2 and RESP3, alone and in batches."""

from collections.abc import Iterator

from moxy.wire.resp import Parser, Simple, Value, encode, encode_into
from tests.bench.harness import Row, Size, cost, main

PAYLOAD = b"x" * 100
LEASE_ID = b"jobs:1234567:1234567:0123456789abcdef"


def command(*words: bytes) -> bytes:
    return encode(list(words), False)


COMMANDS = {
    "ENQUEUE": command(b"MOXY.ENQUEUE", b"jobs", PAYLOAD),
    "FETCH": command(b"MOXY.FETCH", b"jobs", b"30000"),
    "ACK": command(b"MOXY.ACK", LEASE_ID),
}
REPLIES: dict[str, Value] = {
    "ENQUEUE": {"task_id": b"1234567-0123456789abcdef"},
    "FETCH": {"lease_id": LEASE_ID, "task_id": b"1234567-0123456789abcdef", "payload": PAYLOAD},
    "ACK": Simple("OK"),
}


def rows(size: Size) -> Iterator[Row]:
    total = size.of(48_000)
    for name, one in COMMANDS.items():
        for batch in (1, 16, 800):
            feeds, data = max(1, total // batch), one * batch

            def parse(parser: Parser, feeds: int = feeds, data: bytes = data) -> None:
                for _ in range(feeds):
                    parser.feed(data)

            yield cost(f"parse {name}, {batch} at a time", size, feeds * batch, Parser, parse)
    for name, reply in REPLIES.items():
        for resp3 in (False, True):

            def write(out: list[bytes], reply: Value = reply, resp3: bool = resp3) -> None:
                for _ in range(total):
                    encode_into(out, reply, resp3)
                b"".join(out)

            yield cost(f"encode the reply to {name}, RESP{3 if resp3 else 2}", size, total, list, write)


if __name__ == "__main__":
    main(rows)
