"""``python -m dlskip``: the command line."""

from dlskip.commands import main

if __name__ == "__main__":
    main()
