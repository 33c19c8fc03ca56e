"""May this Redis be trusted with accepted jobs? Pure: it reads what ``INFO`` and ``CONFIG GET`` said.

A Redis that evicts keys or forgets them in a restart loses jobs that clients got a 202 for. So the store refuses
to start on one, and ``sightline doctor`` says how to mend it.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Oldest Redis that the scripts run on and that still gets fixes; any Valkey will do (it forked from 7.2).
MIN_REDIS = (7, 2)
#: First Redis with all fixes known for scripts and for blocked BRPOPs, such as CVE-2026-23479. An older branch's or a
#: distribution's release may have them under a lower number, so that less is only advised against.
FIXED_REDIS = (8, 6, 3)
#: A watched job's text fills no more; the default, 4,096, is taken for each stream at once: 3 kB of memory for nothing.
STREAM_NODE_BYTES = 512
#: A job's record fits into one list then; with the default, 64, its request makes a table of it, a third larger.
LISTPACK_BYTES = 4096
#: What to ask ``CONFIG GET`` for. A managed Redis may refuse it: pass ``{}``, then ``INFO`` alone decides.
CONFIG_NAMES = ("appendonly", "appendfsync", "maxmemory-policy", "stream-node-max-bytes", "hash-max-listpack-value")
#: A script that writes nothing, and is refused wherever one that takes a job would be: a full Redis, a full disk, no rights.
PROBE = "#!lua\nreturn 1"


def server_name(info: Mapping[str, object]) -> str:
    """Name the server as people know it: ``Valkey 9.1.2`` or ``Redis 8.6.3``.

    Args:
        info: the answer to ``INFO``, as redis-py parses it.
    """
    if _is_valkey(info):
        return f"Valkey {info.get('valkey_version') or info.get('redis_version', '?')}"
    return f"Redis {info.get('redis_version', '?')}"


def redis_problems(info: Mapping[str, object], config: Mapping[str, object]) -> list[tuple[str, str]]:
    """List what makes this server unsafe for jobs.

    Args:
        info: the answer to ``INFO`` (its sections server, memory, persistence and replication).
        config: the answer to ``CONFIG GET`` for :data:`CONFIG_NAMES`, or ``{}`` where that is not allowed.

    Returns:
        ``(problem, fix)`` pairs, the gravest first; empty when the server is safe.
    """
    found = [_version(info), _replica(info), _appendonly(info, config), _fsync(config), _aof_write(info)]
    return [problem for problem in [*found, _eviction(info, config)] if problem]


def redis_advice(info: Mapping[str, object], config: Mapping[str, object]) -> list[str]:
    """List what would be better otherwise, though no job is lost by it; the arguments are those of :func:`redis_problems`."""
    advice = []
    if not _is_valkey(info) and _numbers(info) < FIXED_REDIS:
        first = ".".join(map(str, FIXED_REDIS))
        advice.append(f"Redis before {first} may lack security fixes: install its branch's newest release, or Valkey 9")
    node_bytes = str(config.get("stream-node-max-bytes", ""))
    if node_bytes.isdigit() and not 0 < int(node_bytes) <= STREAM_NODE_BYTES:
        advice.append(f"redis-cli CONFIG SET stream-node-max-bytes {STREAM_NODE_BYTES} halves the memory of a streamed text")
    listpack_bytes = str(config.get("hash-max-listpack-value", ""))
    if listpack_bytes.isdigit() and int(listpack_bytes) < LISTPACK_BYTES:
        advice.append(f"redis-cli CONFIG SET hash-max-listpack-value {LISTPACK_BYTES} takes a third off the memory of a job")
    return advice


def _numbers(info: Mapping[str, object]) -> tuple[int, ...]:
    parts = str(info.get("redis_version", "0")).split(".")
    return tuple(int(part) for part in parts[:3] if part.isdigit())


def _is_valkey(info: Mapping[str, object]) -> bool:
    return "valkey_version" in info or info.get("server_name") == "valkey"


def _version(info: Mapping[str, object]) -> tuple[str, str] | None:
    if _is_valkey(info):
        return None
    if _numbers(info) >= MIN_REDIS:
        return None
    oldest = ".".join(map(str, MIN_REDIS))
    return f"Redis {info.get('redis_version', '0')} is older than {oldest}", "install Redis 8 or Valkey 9"


def _replica(info: Mapping[str, object]) -> tuple[str, str] | None:
    if info.get("role", "master") == "master":
        return None
    return "it is a read-only replica", "point SIGHTLINE_REDIS_URL at the primary"


def _appendonly(info: Mapping[str, object], config: Mapping[str, object]) -> tuple[str, str] | None:
    enabled = info.get("aof_enabled")
    if enabled is None:
        enabled = config.get("appendonly") == "yes"
    if str(enabled) in {"1", "True"}:
        return None
    fix = "set `appendonly yes` in its configuration, or now: redis-cli CONFIG SET appendonly yes"
    return "appendonly is off: a restart forgets accepted jobs", fix


def _fsync(config: Mapping[str, object]) -> tuple[str, str] | None:
    if config.get("appendfsync") != "no":
        return None
    fix = "set `appendfsync everysec`, or now: redis-cli CONFIG SET appendfsync everysec"
    return "appendfsync is no: a power failure forgets the last half minute", fix


def _aof_write(info: Mapping[str, object]) -> tuple[str, str] | None:
    if info.get("aof_last_write_status", "ok") == "ok":
        return None
    return "its last write to the append-only file failed", "look at its log; most often its disk is full"


def _eviction(info: Mapping[str, object], config: Mapping[str, object]) -> tuple[str, str] | None:
    policy = info.get("maxmemory_policy") or config.get("maxmemory-policy")
    if policy == "noeviction":
        return None
    said = f"maxmemory-policy is {policy}" if policy else "it does not tell its maxmemory-policy"
    fix = "set `maxmemory-policy noeviction`, or now: redis-cli CONFIG SET maxmemory-policy noeviction"
    return f"{said}: full memory would drop jobs", fix
