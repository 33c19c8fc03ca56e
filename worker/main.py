"""``python -m worker.main jobs`` runs jobs on an engine, ``python -m worker.main webhooks`` delivers events."""

import argparse

from shared.tracing import tracer


def main() -> int:
    """Run a worker until SIGTERM or Ctrl-C; gives the exit code."""
    parser = argparse.ArgumentParser(prog="worker")
    parser.add_argument("part", choices=["jobs", "webhooks"])
    if parser.parse_args().part == "webhooks":
        from worker.webhooks.main import run
    else:
        from worker.process import run
    try:
        return run()
    finally:
        tracer().end()


if __name__ == "__main__":
    import logging
    import os

    code = main()
    logging.shutdown()
    # At once: a thread that still waits for an engine to load would hold the process back for minutes.
    os._exit(code)
