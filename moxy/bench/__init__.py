"""`moxy bench`: how fast a server takes a task through its whole life, side by side with its peers.

Reading order: drivers (what each server is told and answers), client (one process that loads it), run (many of them,
their books and their clocks), servers (starting what is measured), report (what people and programs see), command.
Must not: import anything of the server. It is measured from outside, as a process, over a socket.
"""
