"""Moxy: a reliability layer for Redis-style queues."""

__version__ = "0.2.0"
