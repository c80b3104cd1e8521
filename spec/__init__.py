"""Executable specification of the queue: the reference model that every implementation is compared with."""
