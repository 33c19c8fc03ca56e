"""What a job's output tells of its media, in answers of OpenAI's forms, which have no word for it. Pure."""

from __future__ import annotations

from typing import Any

from shared.jobs import Output


def seen(output: Output | None) -> dict[str, Any]:
    """Give a field of our own beside OpenAI's: ``media``, ``warnings`` and ``boxes`` as a job's output has them.

    Args:
        output: of the job behind an answer; None where it has none yet.

    Returns:
        Nothing where the model was shown neither picture nor video.
    """
    if output is None or not output.media:
        return {}
    return {"sightline": output.model_dump(mode="json", include={"media", "warnings", "boxes"}, exclude_none=True)}
