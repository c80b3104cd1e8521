"""Watch a worker die and its task come back: `python demo/recovery.py [--fast] [--svg FILE]`.

Lives here: a door to `moxy demo` for those who start from the clone. Must not: the story, which is moxy/story.py.
"""

import sys

from moxy.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
