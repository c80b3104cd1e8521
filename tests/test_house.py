"""The house: who may import whom, what the core may not even name, docs that say what the code does.

`MOXY_WRITE_DOCS=1 python -m pytest tests/test_house.py` writes the generated parts of the docs anew.
"""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moxy.core.lifecycle import mermaid
from moxy.server.greetings import HANDLERS
from moxy.wire.describe import protocol_tables
from moxy.wire.table import ROWS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CARD = {"pyproject.toml", "README.md", "LICENSE", "moxy", "spec", "tests", "demo", "docs"}
MODULES = sorted((ROOT / "moxy").rglob("*.py"))
LINES_MAX = 500

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    # room -> what of moxy it may import, besides its own room and the package itself
    "core": (),
    "wire": ("core",),
    "journal": ("core",),
    "backends": ("core", "journal"),
    "requests": ("core", "backends.base"),
    "waiting": ("core", "requests"),
    "service": ("core", "backends.base", "requests", "waiting"),
    "server": ("core", "wire", "requests", "service", "backends.base"),
    "observe": ("core", "requests"),
    "sources": (),
    "replay": ("core",),
    "config": ("core", "backends.durable", "backends.redis", "server.doors"),
    "bench": ("config",),
}
WIRING = {"cli", "logsource", "logtools", "checktools", "story", "stage", "__main__", "__init__"}
BANNED_IN_CORE = {
    "time",
    "random",
    "uuid",
    "datetime",
    "asyncio",
    "os",
    "sys",
    "secrets",
    "logging",
    "socket",
    "threading",
}
THIRD_PARTY_IN_CORE = {"librt", "msgspec", "mypy_extensions", "transitions"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "moxy").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module == "moxy" else module for alias in node.names)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    if room in WIRING:
        return
    for name in imports(path):
        if not name.startswith("moxy"):
            continue
        inner = name.removeprefix("moxy").removeprefix(".")
        if inner in ("", "__version__") or inner.split(".")[0] == room:
            continue
        allowed = MAY_IMPORT[room]
        assert any(inner == door or inner.startswith(door + ".") for door in allowed), f"{room} imports {name}"


LOADS_SPEC = {"moxy/checktools.py"}
"""Who may load `spec` by its name when it is asked to, which is no import and makes nothing else need it."""


def test_nothing_of_moxy_imports_its_spec_and_one_command_loads_it() -> None:
    assert [named(path) for path in MODULES if any(name.split(".")[0] == "spec" for name in imports(path))] == []
    loading = {
        named(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    assert loading == LOADS_SPEC


DRIVES_MOXY = ("spec/adapters/", "spec/explore/", "spec/sim")
"""What of `spec` may import `moxy`: what drives the real thing, and the simulated world that it runs in."""


@pytest.mark.parametrize("path", sorted((ROOT / "spec").rglob("*.py")), ids=named)
def test_the_spec_imports_moxy_only_where_it_drives_it(path: Path) -> None:
    """So the model stays a stranger to the code. A name in a text, such as that of a mutant's file, is no import."""
    if named(path).startswith(DRIVES_MOXY):
        return
    tops = {name.split(".")[0] for name in imports(path)}
    assert "moxy" not in tops
    if named(path).startswith("spec/model/"):
        import sys

        assert tops - set(sys.stdlib_module_names) <= {"spec"}
        assert all(name.startswith("spec.model") for name in imports(path) if name.startswith("spec"))
    through = {name for name in imports(path) if name.startswith(("spec.adapters", "spec.explore", "spec.sim"))}
    assert not through or named(path).startswith("spec/mutants/"), f"it gets at moxy through {through}"


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "core"], ids=named)
def test_the_core_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in BANNED_IN_CORE, f"{path.name} imports {name}"
        if top == "transitions":
            assert path.name == "lifecycle.py"
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_core_needs_little() -> None:
    import sys

    tops = {name.split(".")[0] for path in MODULES if room_of(path) == "core" for name in imports(path)}
    assert tops - set(sys.stdlib_module_names) - {"moxy"} == THIRD_PARTY_IN_CORE


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_opens_with_its_rules_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "opens without saying what lives here"
    assert text.count("\n") <= LINES_MAX, "does this room want a second door?"


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "protocol": ("protocol.md", protocol_tables),
    "lifecycle": ("lifecycle.md", lambda: f"```mermaid\n{mermaid()}\n```"),
}


@pytest.mark.parametrize("part", GENERATED)
def test_generated_docs_are_fresh(part: str) -> None:
    name, generate = GENERATED[part]
    path = DOCS / name
    begin = f"<!-- generated by tests/test_house.py: begin {part} -->\n"
    end = "<!-- generated: end " + part + " -->"
    text = path.read_text()
    head, rest = text.split(begin)
    body, tail = rest.split(end)
    if os.environ.get("MOXY_WRITE_DOCS"):
        path.write_text(f"{head}{begin}{generate()}\n{end}{tail}")
        return
    assert body.strip() == generate(), f"{name} is stale: MOXY_WRITE_DOCS=1 python -m pytest tests/test_house.py"


def test_every_verb_is_in_the_protocol_page() -> None:
    text = (DOCS / "protocol.md").read_text()
    assert [row.name for row in ROWS if f"`{row.name}" not in text] == []


def test_every_connection_command_has_its_handler_and_no_handler_is_idle() -> None:
    assert {row.name for row in ROWS if row.parse is None} == set(HANDLERS)


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (DOCS / "dependencies.md").read_text()
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=; ]", dependency)[0] for dependency in wanted} - {"moxy"}
    assert {name for name in names if f"| `{name}` |" not in text} == set()
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == names, "a reason for what is not used"


PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "spec" / "README.md", ROOT / "tests" / "README.md"]


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(path), f"{target}: no such heading"


def test_the_index_mentions_every_page() -> None:
    text = (DOCS / "index.md").read_text()
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in text] == []


def test_the_top_level_is_the_card() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {file.split("/")[0] for file in files if not file.startswith(".")} == CARD


def test_readme_commands_are_the_ones_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*$", readme, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("moxy serve")
    assert commands[1].endswith("python -m pytest -q -n auto")
    assert "grep -m 1 'python -m pytest' README.md" in (ROOT / ".ci" / "run").read_text()
