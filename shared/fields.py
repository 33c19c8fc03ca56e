"""What the bodies of the HTTP contract have in common. Pure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

DAY_S = 24 * 3600


class Strict(BaseModel):
    """A part of the HTTP contract: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """A part of what the service tells, each of whose fields stands in every answer; the description says so of them all."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
