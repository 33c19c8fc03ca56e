"""The version of what is kept in Redis: its keys, and the fields of its records. Pure."""

from __future__ import annotations

#: Grows with every change that an older part would read or write wrongly; docs/upgrades.md says how data of before get there.
SCHEMA = 1
#: The key that holds it.
KEY = "schema"
#: Reads it, and writes it where nothing is kept yet; also in a Redis that is full.
MARK = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1], 'NX')\nreturn redis.call('GET', KEYS[1])"


def schema_problem(found: str, prefix: str) -> str | None:
    """Say why this version cannot work with what is kept there; None where it can.

    Args:
        found: the version that stands in Redis.
        prefix: of its keys.
    """
    if found == str(SCHEMA):
        return None
    if not (found.isascii() and found.isdigit()):
        return f"{prefix}{KEY} in Redis is {found[:20]!a}, which is no version of Sightline's data: see docs/upgrades.md"
    what = f"the data in Redis under {prefix} are of version {found}, and this Sightline reads version {SCHEMA}"
    if int(found) > SCHEMA:
        return f"{what}: start the newer Sightline that wrote them"
    return f"{what}: docs/upgrades.md says how to bring them up"
