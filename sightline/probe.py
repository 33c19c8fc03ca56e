"""Ask torch and the GPU's driver what they see, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

#: torch's first import from a cold disk took 25 s on two busy cores; a hung driver takes for ever.
TORCH_TIMEOUT_S = 90.0
_DRIVER_TIMEOUT_S = 10.0

#: Prints one JSON object per step, so that a crash in a later step keeps what the earlier ones said.
_SCRIPT = """
import json, warnings
warnings.simplefilter("ignore")
def say(**found):
    print(json.dumps(found), flush=True)
import torch
say(torch=torch.__version__, cuda=torch.version.cuda)
if torch.version.cuda:
    try:
        torch.cuda.init()
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        eight = [", computes in FP8" if (card.major, card.minor) >= (8, 9) else "" for card in cards]
        say(gpus=[f"{card.name}, {card.total_memory / 2**30:.0f} GiB{also}" for card, also in zip(cards, eight)])
    except Exception as error:
        say(cuda_error=str(error).splitlines()[0])
try:
    import torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    say(torchvision_error=None)
except Exception as error:
    say(torchvision_error=f"{type(error).__name__}: {error}".splitlines()[0])
"""


@dataclass(frozen=True)
class Probe:
    """What torch says.

    Attributes:
        torch: its version; ``None`` when it did not load.
        cuda: the CUDA version that it was built for.
        gpus: name and memory of each GPU that it can use, and whether it computes in FP8 (compute capability 8.9 or more).
        cuda_error: why it can use none.
        torchvision_error: why torchvision's operators do not load.
        error: why torch did not load, or what ended the probe.
    """

    torch: str | None = None
    cuda: str | None = None
    gpus: tuple[str, ...] = ()
    cuda_error: str | None = None
    torchvision_error: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says.

    Attributes:
        version: its own; ``None`` without a driver.
        gpus: name and memory of each GPU.
    """

    version: str | None = None
    gpus: tuple[str, ...] = ()


def torch_probe(script: str = _SCRIPT, timeout_s: float = TORCH_TIMEOUT_S) -> Probe:
    """Import torch and torchvision and ask for the GPUs.

    Args:
        script: what the process runs; it prints the fields of :class:`Probe` as JSON objects, one per line.
        timeout_s: after this the process is killed, and what it said until then counts.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own script, our own interpreter
            [sys.executable, "-P", "-c", script], capture_output=True, check=False, timeout=timeout_s
        )
        out, ended = done.stdout, _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        out, ended = error.stdout or b"", f"it took longer than {timeout_s:.0f} s"
    said: dict[str, object] = {"torchvision_error": ended, "error": ended}
    for line in out.decode(errors="replace").splitlines():
        if line.startswith("{"):
            said |= json.loads(line)
    gpus = said.pop("gpus", ())
    return Probe(**said, gpus=tuple(gpus))  # type: ignore[arg-type]  # the script keeps to the fields


def nvidia_driver() -> Driver:
    """Ask the NVIDIA driver for its version and its GPUs, whatever torch makes of them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Driver()
    query = [program, "--query-gpu=driver_version,memory.total,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, check=False, timeout=_DRIVER_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return Driver()
    lines = done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []
    rows = [line.split(", ", maxsplit=2) for line in lines if line.count(", ") > 1]
    return Driver(rows[0][0], tuple(f"{name}, {memory}" for _, memory, name in rows)) if rows else Driver()


def _ending(code: int, stderr: bytes) -> str | None:
    if code == 0:
        return None
    if code < 0:
        return f"the process was ended by signal {-code}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"
