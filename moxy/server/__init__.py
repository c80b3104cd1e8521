"""Sockets and the event loop around the service.

`connection` is sans-I/O; `greetings` answers the connection commands; `tcp` has the sockets, the loop and shutdown.
"""
