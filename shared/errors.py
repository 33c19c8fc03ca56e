"""Every error a client can meet, in one tree.

The class carries the code and the HTTP status; the docstring is the message unless a better one is given. The same
``{message, type, param, code}`` stands in an HTTP answer, in ``job.error`` and in a webhook's payload.

::

    SightlineError                500 internal
    ├── InvalidRequest            400 invalid_request
    │   ├── EmptyPrompt           400 empty_prompt
    │   ├── MediaMissing          400 media_missing
    │   ├── TooManyItems          400 too_many_items
    │   ├── BadMediaReference     400 bad_media_reference
    │   ├── UploadUnknown         400 upload_unknown
    │   ├── ModelUnknown          404 model_not_found
    │   ├── TooManyEndpoints      400 too_many_endpoints
    │   ├── UnsupportedParameter  400 unsupported_parameter
    │   ├── ReservedToken         422 reserved_token
    │   └── AddressRefused        400 address_refused
    ├── KeyInvalid                401 invalid_api_key
    ├── AdminKeyRequired          403 admin_key_required
    ├── CrossSite                 403 cross_site
    ├── NotFound                  404 not_found
    ├── MethodNotAllowed          405 method_not_allowed
    ├── RequestTooSlow            408 request_timeout         retryable
    ├── AlreadyFinal              409 already_final
    ├── FileInUse                 409 file_in_use
    ├── LastAdminKey              409 last_admin_key
    ├── Gone                      410 gone
    ├── BodyTooLarge              413 body_too_large
    ├── UnsupportedMedia          415 unsupported_media
    ├── UnsupportedEncoding       415 unsupported_encoding
    ├── ForeignHost               421 foreign_host
    ├── KeyReused                 422 idempotency_key_reused
    ├── QueueFull                 429 queue_full              retryable
    ├── HeadersTooLarge           431 headers_too_large
    ├── HungUp                    499 client_hung_up
    ├── ReceiverSilent            502 receiver_silent
    ├── RateLimited               429 rate_limit_exceeded     retryable
    │   └── QuotaExceeded         429 quota_exceeded          retryable
    ├── TooManyBatches            429 too_many_batches        retryable
    ├── StreamBroken              500 stream_broken
    ├── RecordUnreadable          500 record_unreadable
    ├── Restarting                503 restarting              retryable
    ├── TooManyConnections        503 too_many_connections    retryable
    ├── StoreUnavailable          503 store_unavailable       retryable
    ├── StoreUnsafe               503 store_unsafe
    ├── ModelNotReady             503 model_not_ready         retryable
    ├── StorageUnavailable        503 storage_unavailable     retryable
    ├── StorageFull               507 storage_full            retryable
    └── JobFailed                 a job's own end, never an HTTP status of its own
        ├── MediaUnreachable          media_unreachable       retryable
        ├── MediaUnreadable           media_unreadable
        ├── MediaTooLarge             media_too_large
        ├── ResourceExhausted         resource_exhausted      retryable
        ├── PromptTooLong             prompt_too_long
        ├── UnsupportedFormat         unsupported_response_format
        ├── BadSchema                 bad_schema
        ├── EngineFailed              engine_failed           retryable
        ├── MediaUnseen               media_unseen
        ├── PoisonInput               poison_input
        ├── RunTimeout                run_timeout
        ├── StartDeadline             start_deadline
        ├── WorkerLost                worker_lost
        └── CancelledByClient         cancelled
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar


class SightlineError(Exception):
    """Something failed inside the service; the details are in its log."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Make the error.

        Args:
            message: what went wrong and what to do; the class's docstring when left out.
            param: path of the field at fault, as in ``messages.0.content.1``.
            retry_after_s: seconds after which a repetition may work.
            extra: members that stand beside the error in the answer.
        """
        self.message = message or (type(self).__doc__ or "").strip()
        self.param = param
        self.retry_after_s = retry_after_s
        self.extra = extra or {}
        super().__init__(self.message)

    @property
    def kind(self) -> str:
        """OpenAI's ``error.type``."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"

    def as_error(self) -> dict[str, Any]:
        """Give the error object that clients of OpenAI's API read."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


class InvalidRequest(SightlineError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400


class EmptyPrompt(InvalidRequest):
    """The prompt is empty; say what should be described."""

    code = "empty_prompt"


class MediaMissing(InvalidRequest):
    """There is no picture or video in the request; add at least one."""

    code = "media_missing"


class TooManyItems(InvalidRequest):
    """There are too many pictures or videos in one request."""

    code = "too_many_items"


class BadMediaReference(InvalidRequest):
    """A picture or video is named by an http(s) address, a base64 data-URL or an upload's id; local paths are refused."""

    code = "bad_media_reference"


class UploadUnknown(InvalidRequest):
    """No upload of that id is there, or it has expired; upload the file again with POST /v1/files."""

    code = "upload_unknown"


class ModelUnknown(InvalidRequest):
    """This service does not serve that model; GET /v1/models lists what it serves."""

    code = "model_not_found"
    status = 404


class TooManyEndpoints(InvalidRequest):
    """There are as many webhook endpoints as one may have; delete one that is not needed."""

    code = "too_many_endpoints"


class UnsupportedParameter(InvalidRequest):
    """This service cannot do what that parameter asks for; leave it out."""

    code = "unsupported_parameter"


class ReservedToken(InvalidRequest):
    """A text holds a word that steers the model, such as <|image_pad|>; write it another way, for example with a space."""

    code = "reserved_token"
    status = 422


class AddressRefused(InvalidRequest):
    """That address may not be contacted; only public http(s) addresses are."""

    code = "address_refused"


class KeyInvalid(SightlineError):
    """An API key is needed: send `Authorization: Bearer sk-...`; `sightline keys create NAME` makes one."""

    code = "invalid_api_key"
    status = 401


class AdminKeyRequired(SightlineError):
    """Only a key that may administer others may do this; `sightline keys create NAME --admin` makes one."""

    code = "admin_key_required"
    status = 403


class CrossSite(SightlineError):
    """A page of another site sent this; without API keys, only pages of hosts in SIGHTLINE_TRUSTED_HOSTS may."""

    code = "cross_site"
    status = 403


class NotFound(SightlineError):
    """There is nothing here by that name."""

    code = "not_found"
    status = 404


class MethodNotAllowed(SightlineError):
    """This path does not take that method."""

    code = "method_not_allowed"
    status = 405


class RequestTooSlow(SightlineError):
    """The request did not arrive in time; send it again."""

    code = "request_timeout"
    status = 408
    retryable = True


class AlreadyFinal(SightlineError):
    """The job has already ended."""

    code = "already_final"
    status = 409


class FileInUse(SightlineError):
    """A batch that has not ended reads this file; cancel the batch, or delete the file when it has ended."""

    code = "file_in_use"
    status = 409


class LastAdminKey(SightlineError):
    """The last key that may administer others is not revoked over HTTP; `sightline keys revoke ID` does it."""

    code = "last_admin_key"
    status = 409


class Gone(SightlineError):
    """The job ended and its retention is over."""

    code = "gone"
    status = 410


class BodyTooLarge(SightlineError):
    """The body is too large; upload large files with POST /v1/files."""

    code = "body_too_large"
    status = 413


class UnsupportedMedia(SightlineError):
    """The file is of no kind of picture or video that is taken; the message says of which, and what to send instead."""

    code = "unsupported_media"
    status = 415


class UnsupportedEncoding(SightlineError):
    """A body comes as it is, or with `content-encoding: gzip`; other encodings are not unpacked."""

    code = "unsupported_encoding"
    status = 415


class ForeignHost(SightlineError):
    """This gateway has no API keys, so it answers to this machine's names only, and to those in SIGHTLINE_TRUSTED_HOSTS."""

    code = "foreign_host"
    status = 421


class KeyReused(SightlineError):
    """This Idempotency-Key was used with another body; take a new key for a new job."""

    code = "idempotency_key_reused"
    status = 422


class HungUp(SightlineError):
    """The client hung up before there was an answer."""

    code = "client_hung_up"
    status = 499


class QueueFull(SightlineError):
    """The queue is full; try again later."""

    code = "queue_full"
    status = 429
    retryable = True


class HeadersTooLarge(SightlineError):
    """The request's line and headers are longer than 64 kB, or there are more than 200 headers."""

    code = "headers_too_large"
    status = 431


class ReceiverSilent(SightlineError):
    """The webhook endpoint did not answer in time; see whether its address is right and it can be reached from here."""

    code = "receiver_silent"
    status = 502


class RateLimited(SightlineError):
    """This API key has used up what it may do in a minute or have waiting; try again later."""

    code = "rate_limit_exceeded"
    status = 429
    retryable = True


class QuotaExceeded(RateLimited):
    """This API key has used up what it may do in a day; the next one begins at midnight, UTC."""

    code = "quota_exceeded"


class TooManyBatches(SightlineError):
    """As many of your batches are open as may be at a time; send this one again when one of them has ended."""

    code = "too_many_batches"
    status = 429
    retryable = True


class StreamBroken(SightlineError):
    """The job began again on another worker and says something else now, so this stream ends; ask again for the whole text."""

    code = "stream_broken"


class RecordUnreadable(SightlineError):
    """What is stored of it cannot be read: it is damaged, or another version of this service wrote it. The log names it."""

    code = "record_unreadable"


class Restarting(SightlineError):
    """The gateway is being restarted; ask again, with the same Idempotency-Key if there was one."""

    code = "restarting"
    status = 503
    retryable = True


class TooManyConnections(SightlineError):
    """The gateway has as many connections as it takes (SIGHTLINE_MAX_CONNECTIONS); try again later."""

    code = "too_many_connections"
    status = 503
    retryable = True


class StoreUnavailable(SightlineError):
    """Redis cannot be reached or takes no writes; try again, with the same Idempotency-Key if there was one."""

    code = "store_unavailable"
    status = 503
    retryable = True


class StoreUnsafe(SightlineError):
    """This Redis could forget or evict accepted jobs; the service does not start on it."""

    code = "store_unsafe"
    status = 503


class ModelNotReady(SightlineError):
    """No worker of that model is ready now; try again, or see GET /v1/models for those that are."""

    code = "model_not_ready"
    status = 503
    retryable = True


class StorageUnavailable(SightlineError):
    """The files of this service cannot be reached just now; try again, with the same Idempotency-Key if there was one."""

    code = "storage_unavailable"
    status = 503
    retryable = True


class StorageFull(SightlineError):
    """There is no room for another file; name it by its address, or try again when older uploads have expired."""

    code = "storage_full"
    status = 507
    retryable = True


class JobFailed(SightlineError):
    """The job failed."""

    code = "job_failed"


class MediaUnreachable(JobFailed):
    """The address of a picture or video did not answer with the file."""

    code = "media_unreachable"
    status = 422
    retryable = True


class MediaUnreadable(JobFailed):
    """A picture or video is damaged or of a kind that cannot be decoded."""

    code = "media_unreadable"
    status = 422


class MediaTooLarge(JobFailed):
    """A picture or video is larger than this service takes."""

    code = "media_too_large"
    status = 422


class ResourceExhausted(JobFailed):
    """A picture's or video's decoder was killed each time, as where memory is short; try again later, or send it smaller."""

    code = "resource_exhausted"
    status = 503
    retryable = True


class PromptTooLong(JobFailed):
    """Text and media together are longer than the model's context; send less text, or fewer or smaller pictures."""

    code = "prompt_too_long"
    status = 422


class UnsupportedFormat(JobFailed):
    """The transformers engine cannot hold its answer to a response_format; the vLLM engine can."""

    code = "unsupported_response_format"
    status = 422


class BadSchema(JobFailed):
    """The engine cannot hold its answer to this json_schema; use a simpler one."""

    code = "bad_schema"
    status = 422


class EngineFailed(JobFailed):
    """The engine failed while it worked on this job."""

    code = "engine_failed"
    retryable = True


class MediaUnseen(JobFailed):
    """The model was shown none of the job's pictures and videos: its answer would be made up; this is the service's fault."""

    code = "media_unseen"


class PoisonInput(JobFailed):
    """Engines died that worked on this job alone, and on others well; it is not tried again."""

    code = "poison_input"


class RunTimeout(JobFailed):
    """The job ran longer than its run_timeout_s."""

    code = "run_timeout"


class StartDeadline(JobFailed):
    """The job was not started within its start_deadline_s."""

    code = "start_deadline"


class WorkerLost(JobFailed):
    """The job's worker was lost on every attempt."""

    code = "worker_lost"


class CancelledByClient(JobFailed):
    """The job was cancelled by its client."""

    code = "cancelled"
    status = 409


def job_error(error: dict[str, Any]) -> SightlineError:
    """Give a job's stored error as an exception again, with the status and the retryability of its code."""
    return _KINDS.get(error["code"], JobFailed)(error["message"], param=error["param"])


def _kinds(root: type[SightlineError]) -> Iterator[type[SightlineError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


_KINDS = {kind.code: kind for kind in _kinds(SightlineError)}


def codes() -> frozenset[str]:
    """Name every code, those of errors that are defined elsewhere among them."""
    return frozenset(kind.code for kind in _kinds(SightlineError))
