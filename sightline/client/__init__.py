"""A client for the service: upload, submit, wait, for code that blocks and for asyncio.

It needs httpx, and nothing of the service's own parts.
"""

from sightline.client.aio import AsyncClient, AsyncJob
from sightline.client.core import KEY, Media
from sightline.client.errors import ServiceError
from sightline.client.records import Described, Event, File
from sightline.client.sync import Client, Job

__all__ = ["KEY", "AsyncClient", "AsyncJob", "Client", "Described", "Event", "File", "Job", "Media", "ServiceError"]
