"""What is ours in Redis: the prefix before the names of all keys and channels, and who else makes names behind it.

:meth:`shared.store.records.Records._key` puts it before a name in Python, ``key`` of ``scripts/lib/base.lua`` in scripts. Which
keys there are stands with each kind of records, those of jobs in :mod:`shared.store.jobs`.
"""

from __future__ import annotations

import re

#: Before every key and channel of ours, unless SIGHTLINE_REDIS_PREFIX says otherwise. Its hash tag keeps all in one slot
#: of a cluster; whatever means something in a pattern or in an ACL is refused.
PREFIX = "sightline:{sightline}:"
PREFIX_RULE = "a prefix with one hash tag, such as {sightline}: or staging:{sightline}:, of letters, digits and _ . : -"
_PREFIX = re.compile(r"[\w.:-]*\{[\w.:-]+\}[\w.:-]*", re.ASCII)
CONTROL = "control"  #: how the exchange of remote control is called


def check_prefix(prefix: str) -> str:
    """Give a prefix back.

    Raises:
        ValueError: it is none that all keys can stand behind.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("not a prefix with one hash tag")
    return prefix


def bell_prefix(prefix: str = PREFIX) -> str:
    """Give what stands before every key that kombu makes; the store's scripts ring there."""
    return f"{prefix}bells:"


def acl_line(prefix: str = PREFIX) -> str:
    """Write the command that makes a Redis user with the rights that Sightline needs, remote control among them."""
    return f"ACL SETUSER sightline on >password ~{prefix}* &{prefix}* &{control_channel(0, prefix)} +@all -@dangerous +info"


def control_channel(db: int, prefix: str = PREFIX) -> str:
    """Name the channel of the workers' remote control, as kombu does. Its consumer subscribes to it as to a pattern."""
    return f"{bell_prefix(prefix)}/{db}.{CONTROL}.pidbox"
