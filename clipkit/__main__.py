"""The `clipkit` command, also as `python -m clipkit`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly at any point, while modules load too."""
    try:
        from clipkit import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
