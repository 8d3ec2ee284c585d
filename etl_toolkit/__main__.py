"""`python -m etl_toolkit` is the command line."""

from etl_toolkit.cli import main

if __name__ == "__main__":
    main()
