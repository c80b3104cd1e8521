"""What each room costs, as plain scripts: `python -m tests.bench.NAME`. docs/performance.md says what came of them.

| script | measures |
| --- | --- |
| `core` | decide and apply, a command, against the length of a queue and the number of queues |
| `wire` | the parser, a command; the encoder, a reply |
| `log` | the journal: append and sync; replay and recovery, events a second |
| `snapshots` | writing and loading a snapshot, a task |
| `memory` | resident bytes, a waiting task and a held one |
| `redis_backend` | a task's life in Redis: through Moxy, by the same scripts without it, by two bare ones |
| `workers` | a Python worker with redis-py, jobs a second; RQ and arq beside it, if they are installed |

Only what a room offers to others is called, so that a room may change inside. No figure is asserted anywhere.
"""
