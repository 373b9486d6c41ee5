"""``python -m danceopd``: the command line."""

from danceopd.cli import main

if __name__ == "__main__":
    main()
