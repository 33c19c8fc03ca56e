"""The command ``sightline``, and ``python -m sightline``: Ctrl-C says nothing also while Python still loads the rest."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command that was typed."""
    try:
        from sightline.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
