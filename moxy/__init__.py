"""Moxy: a reliability layer for Redis-style queues."""

from importlib.util import find_spec

__version__ = "0.2.0"


def form() -> str:
    """How this Moxy was built: "compiled" or "pure Python". Both do the same; docs/adr/0007-compiled.md."""
    spec = find_spec("moxy.core.heart")
    return "pure Python" if spec is None or (spec.origin or "").endswith(".py") else "compiled"
