"""What the service tells of files and jobs: mappings as they came, with names and types for what is used most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from sightline.client.errors import ServiceError

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
T = TypeVar("T")


class Record(Mapping[str, Any]):
    """An object of the service; fields that this client does not know are there as well."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Keep the fields as they came."""
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fields!r})"

    @property
    def id(self) -> str:
        """Its id."""
        return str(self._fields["id"])


class File(Record):
    """A stored file that jobs may name by its id."""

    @property
    def media_type(self) -> str:
        """What it is by its content, as ``image/png``."""
        return str(self._fields["media_type"])

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.media_type.startswith("video/")

    @property
    def sha256(self) -> str:
        """Of its bytes, in hexadecimal."""
        return str(self._fields["sha256"])


class JobFacts(Record):
    """A job as it was when it was last read."""

    @property
    def status(self) -> Status:
        """Where it stands."""
        return cast("Status", self._fields["status"])

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def _output(self) -> dict[str, Any]:
        return dict(self._fields.get("output") or {})

    @property
    def text(self) -> str:
        """What was produced; empty where nothing was."""
        return str(self._output.get("text", ""))

    @property
    def finish_reason(self) -> str | None:
        """Why the text ends: ``stop``, ``length``, ``cancelled`` …; None where there is none."""
        reason = self._output.get("finish_reason")
        return None if reason is None else str(reason)

    @property
    def usage(self) -> dict[str, int]:
        """Counts of tokens; empty before the end."""
        return dict(self._output.get("usage") or {})

    @property
    def error(self) -> ServiceError | None:
        """Why it failed; None where it did not."""
        error = self._fields.get("error")
        if not error:
            return None
        return ServiceError(str(error.get("message")), str(error.get("code")), param=error.get("param"))


@dataclass(frozen=True)
class Event:
    """Something that happened; ``id`` is what a reader goes on after, ``data`` the service's JSON."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether it is a job's end."""
        return self.type.partition(".")[2] in FINAL


@dataclass(frozen=True)
class Described(Generic[T]):
    """What came of one of many: the job as it ended, or the error that kept it from being one."""

    item: T
    job: JobFacts | None = None
    refusal: ServiceError | OSError | None = None

    @property
    def text(self) -> str:
        """What was produced; empty where nothing was."""
        return self.job.text if self.job else ""

    @property
    def error(self) -> ServiceError | OSError | None:
        """Why there is no text: the refusal, or the job's own error."""
        return self.refusal or (self.job.error if self.job else None)
