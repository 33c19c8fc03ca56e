"""A real Prometheus beside a trial: what it has at the end is held against what clients saw."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from shared.settings import ROOT
from sightline.ports import free_port
from sightline.stack import die_with_parent
from tests.chaos.history import History

RULES = ROOT / "ops/prometheus/rules.yml"
SCRAPE_S = 1
READY_S = 30.0


class Prometheus:
    """Scrapes a gateway and the parts' own ports, with the alerts that come with the service, while a block runs."""

    def __init__(self, folder: Path, gateway: int, processes: list[int], *, key: str = "", rules: Path = RULES) -> None:
        """Keep data and log in a folder.

        Args:
            folder: that is there.
            gateway: its port.
            processes: the ports where each part shows what it did.
            key: an API key, where the gateway asks for one.
            rules: its alerts.

        Raises:
            FileNotFoundError: there is no ``prometheus``.
        """
        self._folder, self._port = folder / "prometheus", free_port()
        self._binary = shutil.which("prometheus")
        if self._binary is None:
            raise FileNotFoundError("prometheus")
        self._folder.mkdir()
        jobs = [("sightline", [gateway]), ("sightline-processes", processes)]
        scraped: list[dict[str, Any]] = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]} for name, ports in jobs
        ]
        if key:
            scraped[0]["authorization"] = {"credentials": key}
        every = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
        (self._folder / "prometheus.yml").write_text(
            json.dumps({"global": every, "rule_files": [str(rules)], "scrape_configs": scraped})
        )
        self._n_processes = len(processes)

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        command = [
            str(self._binary),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509
        until = time.monotonic() + READY_S
        while not self._is_ready():
            if time.monotonic() > until or self._process.poll() is not None:
                msg = f"Prometheus did not start; see {self._folder / 'log'}"
                raise TimeoutError(msg)
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/-/ready").is_success
        except httpx.TransportError:
            return False

    def ask(self, expression: str) -> dict[tuple[str, ...], float]:
        """Ask for the values of this moment, by the values of their labels in the order of the labels' names."""
        answer: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self._port}/api/v1/query", params={"query": expression}).json()
        found = answer["data"]["result"]
        return {tuple(value for _, value in sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    def one(self, expression: str) -> int:
        """Ask for a single number; 0 where there is none."""
        return int(next(iter(self.ask(expression).values()), 0))

    def figures(self, history: History) -> dict[str, Any]:
        """Hold its counts against a history, once all is at rest; ``unlike_history`` names what is not the same."""
        time.sleep(3 * SCRAPE_S)
        ended = {key: int(n) for key, n in self.ask("max by (code, status) (sightline_jobs_ended_total)").items()}
        seen_ends = Counter(tuple(filter(None, (seen.code, seen.status))) for seen in history.last.values())  # no empty labels
        pairs = {
            "ended": (ended, dict(seen_ends)),
            "accepted": (self.one("sum(max by (class, model) (sightline_jobs_accepted_total))"), len(history.last)),
            "webhooks": (
                self.one('max(sightline_webhook_attempts_total{outcome="delivered"})'),
                len({told.event_id for told in history.told}),
            ),
            "open": (self.one("sum(max by (status) (sightline_jobs))"), 0),
            "processes": (self.one('sum(up{job="sightline-processes"})'), self._n_processes),
        }
        charged = sum(seen.attempt - 1 for seen in history.last.values() if seen.attempt)
        return {
            "unlike_history": {name: [str(shown), str(true)] for name, (shown, true) in pairs.items() if shown != true},
            "in_prometheus": {name: str(shown) for name, (shown, _) in pairs.items()},
            "rescued": self.one("max(sightline_rescued_total)"),
            "attempts_charged": charged,
            "handed_back": self.one("sum(max by (why) (sightline_handed_back_total))"),
            "series": self.one('count({__name__=~"sightline_.*"})'),
            # A dead process shows nothing: so many scrapes found nobody, and none of them left a gauge.
            "scrapes_of_the_dead": self.one('sum(count_over_time((up{job="sightline-processes"} == 0)[1h:1s]))'),
            "gauges_of_the_dead": self.one(
                'sum(count_over_time((sightline_worker_phase and on (instance) up{job="sightline-processes"} == 0)[1h:1s]))'
            ),
            "alerts": {key[0]: int(n) for key, n in self.ask('count by (alertname) (ALERTS{alertstate="firing"})').items()},
        }
