"""Redis: whether it is there and safe, its clock, and the parts that run on it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import redis

from shared.settings import ADDRESS
from shared.store.address import parse_address, sync_client
from shared.store.data_version import KEY, schema_problem
from shared.store.parts import NAMES, Found, remarks
from shared.store.redis_errors import explain
from shared.store.safety import CONFIG_NAMES, PROBE, redis_advice, redis_problems, server_name
from shared.store.skew import MAX_SKEW_S, is_off, remark
from sightline.state import reaching_up

if TYPE_CHECKING:
    from shared.settings import Settings

from sightline.checks.check import Check

_REDIS_TIMEOUT_S = 3.0


def redis_line(settings: Settings) -> Check:
    """Redis: reachable, and safe for accepted jobs. `sightline up` brings its own unless it is pointed to another one."""
    settings, is_up = reaching_up(settings, settings.state_dir)
    if is_up or "redis_url" in settings.model_fields_set:
        return _redis_line(settings)
    line = replace(_redis_line(settings), level="optional")
    return line if line.ok else replace(line, fix=f"`sightline up` needs none; for parts on several machines {line.fix}")


def _redis_line(settings: Settings) -> Check:
    try:
        where = str(parse_address(settings.redis_url))
    except ValueError:  # its text may hold the password
        detail = "SIGHTLINE_REDIS_URL is no address of a Redis"
        return Check("redis", ok=False, detail=detail, fix=f"SIGHTLINE_REDIS_URL takes {ADDRESS}")
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
            info = client.info("all")
            config = _config(client)
            client.eval(PROBE, 1, settings.redis_prefix)
            schema = client.get(settings.redis_prefix + KEY)
    except (redis.RedisError, OSError) as error:
        trouble = explain(error, settings.redis_prefix)
        answers = isinstance(error, redis.ResponseError | redis.AuthenticationError)
        detail = f"{where} {'refuses' if answers else 'does not answer'}: {trouble.reason}" + (
            f" (it answers: {trouble.answer})" if trouble.answer else ""
        )
        return Check("redis", ok=False, detail=detail, fix=trouble.remedy)
    problems = redis_problems(info, config)
    detail = f"{server_name(info)} at {where}"
    if problems:
        said = "; ".join(problem for problem, _ in problems)
        return Check("redis", ok=False, detail=f"{detail}: {said}", fix="; ".join(mend for _, mend in problems))
    if schema is not None and (problem := schema_problem(bytes(schema).decode(errors="replace"), settings.redis_prefix)):
        return Check(
            "redis", ok=False, detail=f"{detail}: {problem}", fix="docs/upgrades.md, or a SIGHTLINE_REDIS_PREFIX of its own"
        )
    advice = "; ".join(redis_advice(info, config)) or None
    return Check("redis", ok=True, detail=f"{detail}, keeps what it accepted", fix=advice)


def clock_line(settings: Settings) -> Check:
    """This host's clock against that of Redis, which is the one that counts."""
    settings, _ = reaching_up(settings, settings.state_dir)
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
            seconds, micros = client.time()
    except (redis.RedisError, OSError):
        fix = "mend the line of Redis"
        return Check("clock", ok=False, detail="not compared: Redis does not answer", fix=fix, level="optional")
    skew_s = time.time() - seconds - micros / 1_000_000
    if is_off(skew_s):
        return Check("clock", ok=False, detail=remark(skew_s), fix="timedatectl set-ntp true", level="optional")
    return Check("clock", ok=True, detail=f"within {MAX_SKEW_S:.0f} s of that of Redis", level="optional")


def parts_line(settings: Settings) -> Check:
    """The parts that run on this Redis, on any machine: what none of them does, and who dies again and again."""
    settings, _ = reaching_up(settings, settings.state_dir)
    try:
        with sync_client(settings, timeout_s=_REDIS_TIMEOUT_S, decode_responses=True) as client:
            pipe = client.pipeline(transaction=False)
            Found.ask(pipe, settings.redis_prefix)
            found = Found.read(pipe.execute())
    except (redis.RedisError, OSError, ValueError):
        fix = "mend the line of Redis"
        return Check("parts", ok=False, detail="not looked at: Redis does not answer", fix=fix, level="optional")
    running = ", ".join(f"{NAMES.get(kind, (kind,))[0]}: {n}" for kind, n in sorted(found.living.items())) or "none run"
    if problems := remarks(found, hosts=True):
        fix = "start what is missing; of what dies, look at the log"
        return Check("parts", ok=False, detail=f"{running}; {'; '.join(problems)}", fix=fix, level="optional")
    return Check("parts", ok=True, detail=running, level="optional")


def _config(client: redis.Redis) -> dict[str, object]:
    try:
        return {str(name): value for name, value in client.config_get(*CONFIG_NAMES).items()}
    except redis.ResponseError:  # a managed server that does not show it
        return {}
