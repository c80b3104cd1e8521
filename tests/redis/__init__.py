"""Tests of what speaks to Redis, against real servers that the tests start."""
