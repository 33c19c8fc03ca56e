"""``python -m worker.main jobs`` runs jobs on an engine, ``python -m worker.main webhooks`` delivers events."""

import sys


def main() -> int:
    """Run a worker until SIGTERM or Ctrl-C; gives the exit code."""
    from worker.process import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    import logging
    import os

    code = main()
    logging.shutdown()
    # At once: a thread that still waits for an engine to load would hold the process back for minutes.
    os._exit(code)
