"""`python -m choreo`: the command line."""

from choreo.cli import main

if __name__ == "__main__":
    main()
