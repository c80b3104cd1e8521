"""The build backend: setuptools, which compiles the hot modules with mypyc when it can.

Lives here: which modules are compiled, when, and what happens when it does not work. See docs/adr/0007-compiled.md.

A wheel is compiled where CPython, a C compiler and mypy are; else, or with MOXY_PURE=1, it is pure Python, and says so
(`moxy --version` does, too). Both come from the same source and do the same. An editable install is always pure.
"""

import atexit
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Distribution, Extension, build_meta
from setuptools.build_meta import (  # noqa: F401 - the hooks that stay as they are
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

COMPILED = (
    "moxy.backends.durable",
    "moxy.backends.memory",
    "moxy.backends.recent",
    "moxy.core.batch",
    "moxy.core.decider",
    "moxy.core.dedup",
    "moxy.core.effects",
    "moxy.core.folding",
    "moxy.core.form",
    "moxy.core.globs",
    "moxy.core.heart",
    "moxy.core.ids",
    "moxy.core.notes",
    "moxy.core.order",
    "moxy.core.packing",
    "moxy.core.readiness",
    "moxy.core.reducer",
    "moxy.core.restoring",
    "moxy.core.shelves",
    "moxy.core.state",
    "moxy.core.undoing",
    "moxy.core.views",
    "moxy.journal.codec",
    "moxy.journal.journal",
    "moxy.observe.eventlog",
    "moxy.requests",
    "moxy.server.alarm",
    "moxy.server.carriers",
    "moxy.server.connection",
    "moxy.server.epoll",
    "moxy.server.lane",
    "moxy.server.session",
    "moxy.server.tcp",
    "moxy.service",
    "moxy.sources",
    "moxy.waiting",
    "moxy.wire.arguments",
    "moxy.wire.habit",
    "moxy.wire.replies",
    "moxy.wire.resp",
    "moxy.wire.scan",
)

STRUCTS = "msgspec structs: in C already, and mypyc cannot compile their classes"
COLD = "not on the way of a command"
FILES = "its work is per record or file, and in C: checksums, struct, the kernel"

INTERPRETED = {
    # Modules of the rooms that are compiled, and why each of these is not.
    "moxy.backends.base": STRUCTS,
    "moxy.backends.due": "of the Redis backend, which waits for the network",
    "moxy.core.answers": STRUCTS,
    "moxy.core.commands": STRUCTS,
    "moxy.core.decision": STRUCTS,
    "moxy.core.errors": "exceptions, few and raised by compiled code as they are",
    "moxy.core.events": STRUCTS,
    "moxy.core.explain": COLD,
    "moxy.core.invariants": COLD,
    "moxy.core.lifecycle": "the library of state machines is not typed; all that is read is a dict",
    "moxy.core.policy": STRUCTS,
    "moxy.core.reading": "subclasses of Mapping, for readers, not for commands",
    "moxy.core.tasks": STRUCTS,
    "moxy.core.vicinity": COLD,
    "moxy.journal.disk": FILES,
    "moxy.journal.errors": COLD,
    "moxy.journal.frames": FILES,
    "moxy.journal.opening": FILES,
    "moxy.journal.recovery": FILES + "; the events of a record are folded by the core",
    "moxy.journal.repair": COLD,
    "moxy.journal.rows": STRUCTS,
    "moxy.journal.segments": FILES,
    "moxy.journal.snapshots": FILES,
    "moxy.journal.tail": COLD,
    "moxy.journal.verify": COLD,
    "moxy.observe.logs": "structlog's types are not there when it is compiled",
    "moxy.server.doors": "opens sockets, once",
    "moxy.server.greetings": COLD,
    "moxy.server.protocols": "types, of which nothing runs",
    "moxy.server.resuming": "a generator made by a decorator, once for a turn that really waits",
    "moxy.wire.describe": COLD,
    "moxy.wire.table": "closures per verb, made at import",
}

_NEEDS = ["mypy>=2.4", "msgspec>=0.19", "librt>=0.17"]
"""To compile: mypyc comes with mypy, and checks against the types of msgspec and librt."""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *([] if _why_pure() else _NEEDS)]


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    why = _why_pure()
    if not why:
        try:
            Wheel.compiled = True
            return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
        except (Exception, SystemExit) as e:
            why = f"compiling failed ({type(e).__name__}: {e})"
        finally:
            Wheel.compiled = False
    sys.stderr.write(f"moxy: {why}: building pure Python\n")
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


class Wheel(bdist_wheel):
    """The command that makes a wheel; pyproject.toml names it. Works in a directory of its own: nothing that an
    earlier build left can get in, and the clone stays clean."""

    compiled = False

    def finalize_options(self) -> None:
        work = tempfile.mkdtemp(prefix="moxy-build-")
        atexit.register(shutil.rmtree, work, ignore_errors=True)
        self.bdist_dir = os.path.join(work, "wheel")
        self.distribution.get_command_obj("build").build_base = work
        if self.compiled:
            self.distribution.ext_modules = _extensions(work)
        super().finalize_options()


class Source(sdist):
    """The command that makes a source archive: this file belongs into it."""

    def add_defaults(self) -> None:
        super().add_defaults()
        self.filelist.append(os.path.join(".build", "moxy_build.py"))


class Extensions(build_ext):
    """The command that compiles C: many files at a time, since all of them take one processor a minute and a half."""

    def build_extension(self, ext: Extension) -> None:
        def compiled(source: str) -> list[str]:
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [made for objects in pool.map(compiled, ext.sources) for made in objects]
        ext.sources = []
        super().build_extension(ext)


def _extensions(work: str) -> list[Extension]:
    """One extension with all that is compiled, a C file a module, and for each module one that is a door to it."""
    from mypyc.build import mypycify

    files = [str(Path(*module.split(".")).with_suffix(".py")) for module in COMPILED]
    where = os.path.join(work, "c")
    made = mypycify(files, opt_level="3", debug_level="0", group_name="moxy", target_dir=where, multi_file=True)
    if os.name == "posix":
        for extension in made:
            # Nobody else shall replace a function of ours by one of the same name: so a call is a call, not a look-up.
            extension.extra_compile_args = [*extension.extra_compile_args, "-fvisibility=hidden"]  # the list is shared
    return made


def _why_pure() -> str:
    """Why a wheel cannot, or should not, be compiled here; "" when it can."""
    if os.environ.get("MOXY_PURE", "") not in ("", "0"):
        return "MOXY_PURE is set"
    if platform.python_implementation() != "CPython":
        return f"{platform.python_implementation()} is not CPython"
    return "" if _has_compiler() else "there is no C compiler with Python's headers"


def _has_compiler() -> bool:
    with tempfile.TemporaryDirectory(prefix="moxy-build-") as work:
        source = Path(work, "probe.c")
        source.write_text("#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n")
        try:
            command = Distribution().get_command_obj("build_ext")
            command.ensure_finalized()
            from setuptools._distutils.ccompiler import new_compiler
            from setuptools._distutils.sysconfig import customize_compiler

            compiler = new_compiler()
            customize_compiler(compiler)
            compiler.compile([str(source)], output_dir=work, include_dirs=command.include_dirs)
        except (Exception, SystemExit):
            return False
        return True
