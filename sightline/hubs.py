"""The two hubs that weights come from, behind one small protocol; their packages are imported when they are used."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Protocol

_NO_NETWORK = {"NetworkError", "ConnectError", "TimeoutException", "ConnectionError", "Timeout"}
_UNKNOWN = {"NotExistError", "RepositoryNotFoundError", "RevisionNotFoundError"}
_REFUSED = {"AuthenticationError", "PermissionDeniedError", "GatedRepoError"}


class HubError(Exception):
    """A hub did not deliver; the message says why and what to do."""


@dataclass(frozen=True)
class Listing:
    """What a hub holds under a name.

    Attributes:
        revision: what to fetch: a commit where the hub tells it, else the branch.
        sizes: bytes by path.
    """

    revision: str
    sizes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All files together."""
        return sum(self.sizes.values())

    def held_bytes(self, folder: Path) -> int:
        """Count what an earlier fetch left in ``folder`` and a new one will not fetch again."""
        return sum(self._held(folder / path, size) for path, size in self.sizes.items())

    def missing(self, folder: Path) -> list[str]:
        """Name the files that are not in ``folder``, or not whole."""
        return [path for path, size in self.sizes.items() if _size(folder / path) != size]

    @staticmethod
    def _held(file: Path, size: int) -> int:
        whole = _size(file)
        # modelscope's name for an unfinished file; huggingface_hub keeps none that it would go on with
        return size if whole == size else min(size, _size(file.with_name(file.name + ".incomplete")) or 0)


class Hub(Protocol):
    """Where weights come from."""

    def listing(self, name: str, revision: str | None, endpoint: str | None) -> Listing:
        """Ask what the hub holds; raises :class:`HubError`."""

    def fetch(self, name: str, revision: str, folder: Path, endpoint: str | None) -> None:
        """Bring everything into ``folder``; raises :class:`HubError`, and can be called again to go on."""


class ModelScope:
    """modelscope.cn; ``MODELSCOPE_ENDPOINT`` and ``MODELSCOPE_API_TOKEN`` are honoured."""

    title = "ModelScope"
    token = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the variable's name

    def listing(self, name: str, revision: str | None, endpoint: str | None) -> Listing:
        """Ask what the hub holds."""
        with _explained(self, name, revision):
            files = _modelscope("modelscope.hub.api").HubApi(endpoint=endpoint).get_model_files(name, revision=revision)
        return Listing(revision or "master", {file["Path"]: file["Size"] for file in files if file["Size"]})

    def fetch(self, name: str, revision: str, folder: Path, endpoint: str | None) -> None:
        """Bring everything into ``folder``; goes on in the middle of a file."""
        with _explained(self, name, revision):
            _modelscope("modelscope.hub.snapshot_download").snapshot_download(
                name, revision=revision, local_dir=str(folder), endpoint=endpoint
            )


class HuggingFace:
    """huggingface.co; ``HF_ENDPOINT`` and ``HF_TOKEN`` are honoured."""

    title = "Hugging Face"
    token = "HF_TOKEN"  # noqa: S105 - the variable's name

    def listing(self, name: str, revision: str | None, endpoint: str | None) -> Listing:
        """Ask what the hub holds, and which commit that is."""
        with _explained(self, name, revision):
            hub = _module("huggingface_hub")
            info = hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True)
        return Listing(info.sha, {file.rfilename: file.size for file in info.siblings if file.size})

    def fetch(self, name: str, revision: str, folder: Path, endpoint: str | None) -> None:
        """Bring everything into ``folder``; skips the files that are there."""
        for leftover in folder.glob(".cache/huggingface/download/**/*.incomplete"):
            leftover.unlink()  # of a killed process: a new one starts a file of its own
        with _explained(self, name, revision):
            hub = _module("huggingface_hub")
            hub.utils.disable_progress_bars()
            hub.snapshot_download(name, revision=revision, local_dir=folder, endpoint=endpoint)


HUBS: dict[str, Hub] = {"modelscope": ModelScope(), "huggingface": HuggingFace()}


def _modelscope(name: str) -> ModuleType:
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own bar counts both hubs' bytes
    # Its hour for one file is too short for a 5 GB shard below 1.4 MB/s.
    os.environ.setdefault("MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT", str(24 * 3600))
    module = _module(name)
    for chatty in ("modelscope", "modelscope_hub"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # failures are logged once, by us
    return module


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        message = f"The package {package} is not usable ({error}); install it with: pip install {package}"
        raise HubError(message) from error


@contextmanager
def _explained(hub: ModelScope | HuggingFace, name: str, revision: str | None) -> Iterator[None]:
    """Turn the many errors of a hub's package into one that says what to do."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        raise HubError(_explain(error, hub, name, revision)) from error


def _explain(error: Exception, hub: ModelScope | HuggingFace, name: str, revision: str | None) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set in this shell, so Hugging Face is not asked: unset it, then run the same command again."
    if kinds & _REFUSED or status == HTTPStatus.FORBIDDEN:
        return f"{hub.title} wants a token for {name}: set {hub.token} and accept the model's terms on its page."
    if kinds & _UNKNOWN or status == HTTPStatus.NOT_FOUND:
        at = f" at revision {revision}" if revision else ""
        return f"{hub.title} has no model {name}{at} (or a private one: then set {hub.token}). Check the spelling."
    if kinds & _NO_NETWORK:
        return f"{hub.title} cannot be reached. Check the network and the proxy, then run the same command again."
    said = (str(error).splitlines() or [""])[0]
    return f"{hub.title} did not deliver {name}: {type(error).__name__}: {said} Run the same command again to go on."


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
