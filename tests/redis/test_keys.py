"""Which keys Moxy uses: those that it documents, those that it declares, and no others.

Lives here: a live server whose every command in Redis is listened to, and the text of the script. Must not: what the
keys hold (test_contract, `dump`).
"""

import re

from moxy.backends.redis.scripts import KEY_NAMES, SCRIPT, VERBS, keys_of
from tests.redis.live import Witness, entries, fetch, keys_in, moxy, pairs, until_standing
from tests.redis.support import Cluster, Server, serving
from tests.server.launch import ROOT
from tests.server.support import Client

SHARED = {"queues", "servers"}
"""The keys that belong to no queue."""
RIGHTS = "+@read +@write +@scripting +@pubsub +@connection +info +time +cluster|slots"


def use_every_verb(client: Client, queue: str) -> None:
    """So that every key of the queue is there in the end."""
    client("MOXY.CONFIG", queue, "max_attempts", 3, "backoff_ms", 1)
    client("MOXY.ENQUEUE", queue, "x", "ID", "known", "DEDUP", 3_600_000)
    client("MOXY.MENQUEUE", queue, *"abcdefgh")
    tasks = fetch(client, queue, 600_000, "COUNT", 6)
    client("MOXY.MACK", tasks[0]["lease_id"], tasks[1]["lease_id"])
    client("MOXY.NACK", tasks[2]["lease_id"])
    client("MOXY.NACK", tasks[3]["lease_id"], "FATAL")
    client("MOXY.NACK", tasks[4]["lease_id"], "RELEASE")
    client("MOXY.EXTEND", tasks[5]["lease_id"], 700_000)
    client("MOXY.REDRIVE", queue)
    client("MOXY.PAUSE", queue)
    client("MOXY.RESUME", queue)
    client("MOXY.PURGE", queue, "ready")
    client("MOXY.ENQUEUE", queue, "x", "ID", "later", "DELAY", 600_000, "TTL", 900_000)
    client("MOXY.ENQUEUE", queue, "x", "ID", "gone")
    client("MOXY.DELETE", queue, "gone")
    client("MOXY.ENQUEUE", queue, "x", "ID", "bound")
    fetch(client, queue, 600_000, "BOUND")
    client("MOXY.ENQUEUE", queue, "x", "ID", "dead")
    (dead,) = fetch(client, queue)
    client("MOXY.NACK", dead["lease_id"], "FATAL")
    for words in (
        ("MOXY.SHOW", queue, "later"),
        ("MOXY.HISTORY", queue, "later"),
        ("MOXY.WHY", queue, "later"),
        ("MOXY.EVENTS", queue, 1),
        ("MOXY.STATS", queue),
        ("MOXY.INFO", queue),
        ("MOXY.PEEK", queue),
        ("MOXY.CONFIG", queue),
        ("MOXY.QUEUES",),
        ("MOXY.FETCH", queue, 1000, "BLOCK", 1),
    ):
        client(*words)
    client("MOXY.ENQUEUE", queue, "x", "ID", "ready")


def keys_of_queues(prefix: str, *queues: str) -> set[str]:
    return {key for queue in queues for key in keys_of(prefix, queue)} | {f"{prefix}:{name}" for name in SHARED}


def test_there_are_no_keys_but_the_documented_ones() -> None:
    """Two servers, one after the other and at the same time, with a prefix of their own."""
    with serving() as redis:
        leave_only_documented_keys(redis)


def leave_only_documented_keys(server: Server) -> None:
    queues = ("jobs", "ä:b")
    for _ in range(2):
        with (
            moxy(server.address, "--redis-prefix", "tidy") as first,
            moxy(server.address, "--redis-prefix", "tidy") as second,
            first.client() as one,
            second.client() as two,
        ):
            for queue in queues:
                use_every_verb(one, queue)
                use_every_verb(two, queue)
            found = keys_in(server)
            assert found <= keys_of_queues("tidy", *queues)
            used = {key.rsplit(":", 1)[1] for key in found}
            assert used >= {*KEY_NAMES, *SHARED} - {"waiting"}, "a key that is never used would prove nothing"
            assert (first.stop(), second.stop()) == (0, 0)
        assert server.ask("ZCARD", "tidy:servers") == 0, "who goes in peace leaves nothing behind"
        assert server.ask("ZRANGE", "tidy:queues", 0, -1) == sorted(queues)


def test_a_script_touches_only_keys_that_it_declares(server: Server) -> None:
    """Every command inside a script, as Redis itself tells it: its key is one of those that EVALSHA was given."""
    queue = "declared"
    with moxy(server.address) as one, one.client() as client, Witness(server) as witness:
        began = witness.mark()
        use_every_verb(client, queue)
        witness.mark()
    declared = set(keys_of("moxy", queue))
    touched = set()
    for line in witness.lines[began:]:
        inside = re.match(r'\S+ \[\d+ lua\] "(\w+)"(?: "([^"]*)")?', line)
        if inside is not None and inside[1].upper() not in ("TIME", "PUBLISH"):
            touched |= {inside[2], *re.findall(r'"(moxy:[^"]*)"', line)}  # the first word, and whatever else is a key
    assert touched <= declared, touched - declared
    assert {key.rsplit(":", 1)[1] for key in touched} >= set(KEY_NAMES) - {"waiting"}
    for key in keys_in(server, f"moxy:{{{queue}}}:*"):
        server.ask("DEL", key)


def test_the_rights_that_are_documented_are_enough(server: Server) -> None:
    """docs/redis.md: they cover every command and key of every verb, and no key outside the prefix."""
    page = (ROOT / "docs" / "redis.md").read_text()
    assert f"`{RIGHTS}`, the keys `moxy:*` and the channels `moxy:*`" in page
    own = ("resetkeys", "~moxy:*", "resetchannels", "&moxy:*")
    server.ask("ACL", "SETUSER", "limited", "on", ">pw", *own, *RIGHTS.split())
    try:
        with moxy(f"redis://limited:pw@{server.address}") as one, one.client() as client, one.client() as waiter:
            use_every_verb(client, "rights")
            waiter.send("MOXY.FETCH", "others", 1000, "BLOCK", 0)
            until_standing(server, "others")
            client("MOXY.ENQUEUE", "others", "x")
            assert len(entries(waiter.read())) == 1
            assert client.map("MOXY.INFO", "rights")["total_deleted"] > 0
            assert not [line for line in one.logs if "redis.away" in line or "may not" in line]
    finally:
        server.ask("ACL", "DELUSER", "limited")
    for key in keys_in(server, "moxy:{rights}:*") | keys_in(server, "moxy:{others}:*"):
        server.ask("DEL", key)


def test_in_a_cluster_too(cluster: Cluster) -> None:
    """Where a key of another slot would be an error, and one of the same slot would stray."""
    with moxy(cluster.address, "--redis-prefix", "spread") as one, one.client() as client:
        queues = [f"q{number}" for number in range(12)]
        for queue in queues:
            use_every_verb(client, queue)
            assert dict(pairs(client("MOXY.INFO", queue)))[b"total_deleted"] > 0
        assert client("MOXY.QUEUES")[1] == [queue.encode() for queue in sorted(queues)]
        assert one.stop() == 0
    found = {key for node in cluster.nodes for key in keys_in(node, "spread:*")}
    assert found <= keys_of_queues("spread", *queues)
    assert len([node for node in cluster.nodes if keys_in(node, "spread:*")]) == 3


def test_the_text_of_the_script_names_no_key_but_its_own() -> None:
    """`call` gets its key from one of the locals that are made of KEYS, or from a loop over them."""
    text = re.sub(r"--.*", "", SCRIPT.text)
    locals_of_keys = {name.upper() for name in KEY_NAMES}
    (count,) = {max(int(at) for at in re.findall(r"KEYS\[(\d+)\]", text))}
    assert count == len(KEY_NAMES)
    declared = re.findall(r"local ([A-Z, ]+) =\s*(KEYS\[\d+\](?:, KEYS\[\d+\])*)", text)
    names = [name for line, _ in declared for name in line.replace(" ", "").split(",")]
    order = [int(at) for _, line in declared for at in re.findall(r"\d+", line)]
    assert [name.lower() for name in names] == list(KEY_NAMES)
    assert order == list(range(1, count + 1))
    calls = re.findall(r"\b(?:call|redis\.p?call)\(\s*'([A-Z]+)'\s*(?:,\s*([^,()\s]+))?", text)
    assert len(calls) == len(re.findall(r"\b(?:call|pcall)\(", text)), "every call names its command"
    keyless = {"TIME", "PUBLISH"}
    loops = {"key", "line"}  # over KEYS or a part of them: see below
    for command, key in calls:
        assert command in keyless or key in locals_of_keys | loops, (command, key)
    for found in re.findall(r"for _, key in ipairs\(\{(.*?)\}\)|local line = \(\{(.*?)\}\)", text):
        for word in re.findall(r"[A-Za-z_]+", "".join(found)):
            assert word in locals_of_keys or word in ("ready", "scheduled", "processing", "dead"), word
    for given in re.findall(r"first_due\((\w+)\)", text):
        assert given in {*locals_of_keys, "key"}
    assert "KEYS" not in re.sub(r"KEYS\[\d+\]|ipairs\(KEYS\)", "", text)
    assert len(VERBS) == len(re.findall(r"^verbs\.\w+ = function", text, re.MULTILINE))
