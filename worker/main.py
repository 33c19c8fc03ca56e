"""``python -m worker.main jobs`` runs jobs on an engine, ``python -m worker.main webhooks`` delivers events.

Python has each decoder import this module too, since it is what their parent runs: whatever stood at its top would cost each of
them a second and more to start, when every 1,000 pictures the engine waits for it, and some 20 MB.
"""

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
