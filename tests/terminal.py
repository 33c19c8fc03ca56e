"""A terminal of one's own for a command: what it shows, while standard output may go elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import IO

ROWS, COLUMNS = 40, 100
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command whose standard input and error are a terminal, and its standard output, too, unless a file is given.

    Args:
        command: of the command line of Sightline.
        environment: of the process.
        stdout: where standard output goes instead.
        columns: how wide it is.
    """

    def __init__(
        self, *command: str, environment: dict[str, str], stdout: IO[bytes] | None = None, columns: int = COLUMNS
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        own = {"TERM": "xterm", **environment}
        own.pop("COLUMNS", None)  # of who runs the tests; it would count for more than the terminal's own
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sightline.cli", *command], env=own, stdin=theirs, stdout=stdout or theirs, stderr=theirs
        )
        os.close(theirs)
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65_536)
            except OSError:  # nobody holds the other side any more
                return
            self._shown += piece

    @property
    def text(self) -> str:
        """Everything that was shown so far, without what moves the cursor."""
        return _CONTROL.sub("", self._shown.decode(errors="replace"))

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for the end; gives the exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        os.close(self._ours)
        return code


def run(*command: str, environment: dict[str, str], stdout: Path | None = None) -> tuple[int, str]:
    """Run a command to its end; gives its exit code and what the terminal showed."""
    if stdout is None:
        terminal = Terminal(*command, environment=environment)
        return terminal.wait(), terminal.text
    with stdout.open("wb") as file:
        terminal = Terminal(*command, environment=environment, stdout=file)
        return terminal.wait(), terminal.text
