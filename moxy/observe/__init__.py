"""Readers of committed events. They hear of a turn after its replies have left, and change nothing."""
