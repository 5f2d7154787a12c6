"""Run the command line as ``python -m vlood``."""

from vlood.cli import main

if __name__ == "__main__":
    main()
