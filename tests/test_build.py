"""The build: what is compiled, what is not and why, and that a wheel is what it should be."""

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from moxy import form

ROOT = Path(__file__).parents[1]
COMPILED_ROOMS = ("backends", "core", "journal", "server", "wire")


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".build"))
        yield importlib.import_module("moxy_build")


def test_every_module_of_a_compiled_room_is_compiled_or_has_a_reason_not_to_be(build: ModuleType) -> None:
    listed = [*build.COMPILED, *build.INTERPRETED]
    assert len(listed) == len(set(listed))
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in COMPILED_ROOMS
        for path in (ROOT / "moxy" / room).glob("*.py")
        if path.name != "__init__.py"
    }
    assert {name for name in listed if name.split(".")[1] in COMPILED_ROOMS} == there


def test_no_compiled_module_defines_a_struct(build: ModuleType) -> None:
    """mypyc cannot: it would fail, or worse, make a class that msgspec does not know."""
    for name in build.COMPILED:
        assert "msgspec.Struct" not in Path(ROOT, *name.split(".")).with_suffix(".py").read_text(), name


def test_it_is_what_it_says(build: ModuleType) -> None:
    compiled = [not (importlib.import_module(name).__file__ or "").endswith(".py") for name in build.COMPILED]
    assert set(compiled) == {form() == "compiled"}, dict(zip(build.COMPILED, compiled, strict=True))


def test_a_pure_wheel_is_pure_and_says_why(build: ModuleType, tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, '.build'); import moxy_build; print(moxy_build.build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={"MOXY_PURE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert "MOXY_PURE is set: building pure Python" in built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_without_a_compiler_nothing_more_is_fetched(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.build_meta, "get_requires_for_build_wheel", lambda settings: [])
    monkeypatch.delenv("MOXY_PURE", raising=False)
    monkeypatch.setattr(build, "_has_compiler", lambda: False)
    assert build.get_requires_for_build_wheel() == []
    monkeypatch.setattr(build, "_has_compiler", lambda: True)
    assert build.get_requires_for_build_wheel() == build._NEEDS
    monkeypatch.setenv("MOXY_PURE", "1")
    assert build.get_requires_for_build_wheel() == []


def test_what_cannot_be_compiled_is_built_pure(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_wheel(directory: str, *rest: object) -> str:
        if build.Wheel.compiled:
            raise SystemExit("mypyc says no")
        return "pure.whl"

    monkeypatch.delenv("MOXY_PURE", raising=False)
    monkeypatch.setattr(build, "_has_compiler", lambda: True)
    monkeypatch.setattr(build.build_meta, "build_wheel", build_wheel)
    assert build.build_wheel(str(tmp_path)) == "pure.whl"
    assert "compiling failed (SystemExit: mypyc says no): building pure Python" in capsys.readouterr().err
