"""Fills Redis in seconds: it takes what the real calls left of one job, or of one delivery, and writes many like it.

The copies differ in their ids and owners only, so that whatever reads them finds what it would find of real ones.
``tests/integration/test_fleet.py`` holds that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bench.redis_cost.player import REQUEST, output_facts
from shared.jobs import JobRequest, JobStatus, Output
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import Client
from shared.store.endpoints import Endpoints
from shared.store.ids import new_id
from shared.store.jobs import JobStore

PIECE = 1_000  #: copies that one script writes
TRIP = 32  #: scripts that share a trip

Piece = tuple[str, int, int]  #: owner, number of the first copy, how many

#: prefix, the job that is copied, its owner, the number of the first copy, how many
JOBS = """
local prefix, from, owner, first, n = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local seen = redis.call('HGETALL', prefix .. 'job:' .. from)
local facts = {}
for i = 1, #seen, 2 do facts[seen[i]] = seen[i + 1] end
for i = 1, #seen, 2 do if seen[i] == 'owner' then seen[i + 1] = owner end end
local class = facts.class or 'default'
local queue = class .. ':' .. facts.model
local late = redis.call('ZSCORE', prefix .. 'deadlines', from)
for i = first, first + n - 1 do
  local id = string.format('%s%016x', string.sub(from, 1, 20), i)
  redis.call('HSET', prefix .. 'job:' .. id, unpack(seen))
  redis.call('ZADD', prefix .. 'q:' .. queue .. ':' .. owner, facts.created_ms, id)
  redis.call('ZADD', prefix .. 'deadlines', late, id)
end
redis.call('ZADD', prefix .. 'ready:' .. queue, 'NX', 0, owner)
local account = redis.call('HGETALL', prefix .. 'owner:' .. facts.owner)
for i = 1, #account, 2 do
  local name = account[i]
  if name == 'queued' then
    redis.call('HINCRBY', prefix .. 'owner:' .. owner, name, n)
  elseif name == 'day' or string.match(name, '^vt:') or string.match(name, '^used:') then
    redis.call('HSET', prefix .. 'owner:' .. owner, name, account[i + 1])
  end
end
redis.call('HINCRBY', prefix .. 'totals', 'queued', n)
redis.call('HINCRBY', prefix .. 'totals', 'accepted ' .. class .. ' ' .. facts.model, n)
"""

#: prefix, the delivery that is copied, its owner, the number of the first copy, how many
DELIVERIES = """
local prefix, from, owner, first, n = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local facts, endpoint = redis.call('HGETALL', prefix .. 'delivery:' .. from), string.match(from, ':(.*)$')
local due = prefix .. 'due:' .. endpoint
local at = redis.call('ZSCORE', due, from)
for i = first, first + n - 1 do
  local id = string.format('%s%016x:%s', string.sub(from, 1, 20), i, endpoint)
  redis.call('HSET', prefix .. 'delivery:' .. id, unpack(facts))
  redis.call('ZADD', due, at, id)
end
redis.call('HINCRBY', prefix .. 'due_of', owner, n)
"""


async def queue_jobs(redis: Client, n_of: Mapping[str, int], settings: Settings, *, max_running: Mapping[str, int]) -> None:
    """Queue so many jobs of each owner.

    Args:
        redis: to be filled; nobody else may use it.
        n_of: how many jobs each owner has waiting.
        settings: what is not in the request.
        max_running: the limits of owners that have one.
    """
    for owner, limit in max_running.items():
        await ApiKeys(redis).limit(owner, max_running=limit)
    pattern = await _submit(redis, settings, next(iter(n_of)))
    pieces, first = list[Piece](), 0
    for owner, n in n_of.items():
        pieces += _pieces(owner, max(1, first), first + n)  # number 0 is the one that is copied
        first += n
    await _copy(redis, JOBS, pattern, pieces)


async def make_due(redis: Client, owner: str, n: int, settings: Settings) -> str:
    """Make n deliveries due to an endpoint of an owner; gives the endpoint's id. No job may wait yet."""
    endpoints = Endpoints(redis)
    facts = {"url": "https://example.com/hook", "events": ["job.succeeded"], "payload": "full"}
    endpoint = await endpoints.create(owner=owner, name="receiver", **facts)  # type: ignore[arg-type]
    store = JobStore(redis)
    job_id = await _submit(redis, settings, owner)
    places = {"n_default": 1, "n_bulk": 0, "lease_s": 60, "token": new_id("ask")}
    (claim,) = (await store.claim("filler", settings.served_model_name, 1, **places)).claims
    output = Output.model_validate(output_facts("latin"))
    await store.complete(claim, JobStatus.SUCCEEDED, output=output, error=None)
    await store.leave("filler", settings.served_model_name)
    await _copy(redis, DELIVERIES, f"evt_{job_id.removeprefix('job_')}:{endpoint.id}", _pieces(owner, 1, n))
    return endpoint.id


async def _submit(redis: Client, settings: Settings, owner: str) -> str:
    request = JobRequest.model_validate(REQUEST)
    job_id, _ = await JobStore(redis).submit(request, settings, owner=owner, job_id=new_id("job"))
    return job_id


def _pieces(owner: str, first: int, end: int) -> list[Piece]:
    return [(owner, at, min(PIECE, end - at)) for at in range(first, end, PIECE)]


async def _copy(redis: Client, script: str, pattern: str, pieces: list[Piece]) -> None:
    sha = await redis.script_load(script)
    for trip in range(0, len(pieces), TRIP):
        calls = (redis.ask("EVALSHA", sha, 1, redis.prefix, pattern, *piece) for piece in pieces[trip : trip + TRIP])
        await asyncio.gather(*calls)
