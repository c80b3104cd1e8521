"""The event log on disk: the database of a server that has no other.

Reading order: frames (what a record is), codec (what it holds), disk (the only door to a file), segments (the files of
the log), rows and snapshots, recovery (from files to states), opening and journal (the one writer), tail (a reader of
a live log), verify and repair.
Imports only the standard library, msgspec and moxy.core; starts no thread, reads no clock and draws no
random number. docs/event-log.md has the format byte by byte.
"""
