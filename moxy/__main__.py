"""`python -m moxy` is the `moxy` command."""

from moxy.cli import main

if __name__ == "__main__":
    main()
