"""The `clipkit` command, also as `python -m clipkit`."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly at any point, while modules load too."""
    _open_closed_streams()
    try:
        from clipkit import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


def _open_closed_streams() -> None:
    # Else the next files opened would be standard output and error, and take what libraries print there.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it is the lowest that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
