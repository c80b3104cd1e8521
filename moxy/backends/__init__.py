"""Where queues live. `base` says what a backend is; each other module is one."""
