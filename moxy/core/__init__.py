"""The functional core: what a queue is and how it changes.

No clock, no I/O, no asyncio, no randomness, no logging: time, identity and chance come in as arguments.
"""
