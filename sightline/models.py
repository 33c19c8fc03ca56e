"""Fetch a model's weights from a hub, and find them again.

One folder per model, ``models_dir/Qwen__Qwen2.5-VL-3B-Instruct``, with the files as the hub has them and ``sightline.json``
beside them: the name, the source, the revision, and whether the fetch came to its end. A fetch that was cut off is taken up
again by the same command: ModelScope's goes on in the middle of a file, Hugging Face's skips the files that it has.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from shared.weights import NOTE, folder, note
from sightline.hubs import HUBS, HubError, Listing
from sightline.screen import Failure

Source = Literal["modelscope", "huggingface"]

#: Left free on the disk after a fetch: a full disk stops more than this download.
SPARE_BYTES = 2**30


class PullError(Failure):
    """The weights could not be fetched; the message says why and what to do."""


def pull(
    name: str,
    *,
    source: Source = "modelscope",
    revision: str | None = None,
    models_dir: Path,
    endpoint: str | None = None,
    console: Console | None = None,
) -> Path:
    """Fetch the weights of a model; go on where an earlier fetch was cut off.

    Args:
        name: ``owner/model`` on the hub.
        source: the hub.
        revision: branch, tag or commit; the hub's default branch when left out.
        models_dir: the folder of all models; made when missing.
        endpoint: another address of the hub, such as a mirror.
        console: where the progress is shown; standard error when left out.

    Returns:
        The folder of the weights.

    Raises:
        PullError: unknown name or revision, no network, disk too small, or the hub's package is missing.
    """
    if source not in get_args(Source):
        raise PullError(f"There is no hub {source!r}; use one of: {', '.join(get_args(Source))}.")
    if name.count("/") != 1 or not all(part.strip(".") for part in name.split("/")):
        raise PullError(f"{name!r} is no name on a hub; it must look like Qwen/Qwen2.5-VL-3B-Instruct.")
    console = console or Console(stderr=True)
    path = folder(name, models_dir)
    try:
        with _alone(path, console):
            _fetch(_Order(name, source, revision, endpoint), path, console)
    except HubError as error:
        raise PullError(str(error)) from error
    except OSError as error:
        raise PullError(f"Cannot write the weights to {path}: {error.strerror or error}.") from error
    return path


@dataclass(frozen=True)
class _Order:
    name: str
    source: Source
    revision: str | None
    endpoint: str | None

    def is_met_by(self, about: dict[str, Any]) -> bool:
        same = about.get("source") == self.source and self.revision in {None, about.get("revision")}
        return same and bool(about.get("complete"))


def _fetch(order: _Order, path: Path, console: Console) -> None:
    hub = HUBS[order.source]
    try:
        with console.status(f"Asking {order.source} about {order.name} ..."):
            listing = hub.listing(order.name, order.revision, order.endpoint)
    except HubError as error:
        if order.is_met_by(note(path)):
            console.print(f"{error} The weights in {path} stay as they are.", soft_wrap=True, highlight=False)
            return
        raise
    _check_disk(listing, path)
    about = {"name": order.name, "source": order.source, "revision": listing.revision}
    _write_note(path, {**about, "complete": False})
    size = decimal(listing.total_bytes)
    console.print(f"{order.name}, {size}, from {order.source} to {path}", soft_wrap=True, highlight=False)
    with _progress(listing, path, console):
        hub.fetch(order.name, listing.revision, path, order.endpoint)
    if missing := listing.missing(path):
        raise HubError(f"{len(missing)} files are not whole, {missing[0]} among them. Run the same command again to go on.")
    _write_note(path, {**about, "complete": True})


def _check_disk(listing: Listing, path: Path) -> None:
    wanted = listing.total_bytes - listing.held_bytes(path)
    free = shutil.disk_usage(path.parent).free
    if wanted + SPARE_BYTES > free:
        raise PullError(
            f"The disk of {path.parent} is too small: {decimal(wanted)} are to be fetched and {decimal(SPARE_BYTES)} must "
            f"stay free, but only {decimal(free)} are. "
            "Make room, or set SIGHTLINE_MODELS_DIR to a folder on another disk."
        )


@contextmanager
def _progress(listing: Listing, path: Path, console: Console) -> Iterator[None]:
    """Show one bar for all files, fed by what lies on the disk: the same for both hubs, and true after a resume."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    over = threading.Event()
    with Progress(TextColumn(path.name, markup=False), *columns, console=console) as progress:
        task = progress.add_task("", total=listing.total_bytes, completed=_bytes_in(path))

        def watch() -> None:
            while not over.wait(0.5):
                progress.update(task, completed=min(listing.total_bytes, _bytes_in(path)))

        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
            progress.update(task, completed=listing.total_bytes)
        finally:
            over.set()
            watcher.join()


def _bytes_in(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # renamed or removed meanwhile
            continue
    return total


def _write_note(path: Path, content: dict[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    fresh = path / f".{NOTE}.new"
    fresh.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path / NOTE)


@contextmanager
def _alone(path: Path, console: Console) -> Iterator[None]:
    """Let one process at a time fetch a model: two would spoil each other's unfinished files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another process is fetching {path.name}; waiting for it.", highlight=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)  # ends the lock as well


def held(models_dir: Path) -> Iterator[dict[str, Any]]:
    """Give what is known of the weights on this machine: name, source, revision, size in GB, whether they are whole."""
    for path in sorted(models_dir.glob("*")) if models_dir.is_dir() else ():
        if path.is_dir() and (about := note(path)):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            facts = {name: about.get(name) for name in ("name", "source", "revision", "complete")}
            yield {**facts, "gb": round(size / 1e9, 2), "path": str(path)}


def remove(name: str, *, models_dir: Path) -> Path:
    """Remove a model's weights; gives the folder that is gone.

    Raises:
        PullError: they are not there, another process fetches them, or they cannot be removed.
    """
    path = folder(name, models_dir)
    if name.count("/") != 1 or not note(path):
        raise PullError(f"there are no weights of {name} in {models_dir}; `sightline models list` shows those that are")
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise PullError(f"cannot remove {path}: {error.strerror}") from error
    return path
