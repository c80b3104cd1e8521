"""Queues kept in Redis, shared by any number of servers: the scripts decide, this package carries the calls."""
