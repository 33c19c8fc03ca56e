"""Ports for tests."""

from __future__ import annotations

from sightline.ports import free_port, why_not


def block_of_ports(n: int) -> int:
    """Find so many free ports in a row; gives the first."""
    while True:
        first = free_port()
        if not any(why_not("127.0.0.1", port) for port in range(first, first + n)):
            return first
