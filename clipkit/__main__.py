"""`python -m clipkit` is the `clipkit` command."""

from clipkit.cli import main

if __name__ == "__main__":
    main()
