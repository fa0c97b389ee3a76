"""Every error a user can meet, as one tree.

OvertoneError
├── BadRequest                 422  a field is wrong; the message says which and what would do
│   ├── PromptTooLong          422
│   ├── AdapterRejected        422  validation refused the adapter
│   ├── ModelRejected          422  the base model's files cannot be served as they are
│   └── DatasetError           422  rows of a data set cannot be used
├── MalformedBody              400  neither a form nor JSON can be made of the request's body
├── HostRefused                400  asked under a name that is not this server's
├── AudioError                 415  not audio, or audio that cannot be used
├── TooLarge                   413  body, clip, archive or seconds beyond the limit
├── UploadStalled              408  the client stopped sending in the middle of its body
├── Unauthorized               401
├── Forbidden                  403
├── AdapterNotFound            404
├── NotFound                   404
├── Conflict                   409  name taken, or in use
├── QueueFull                  429  with Retry-After
│   └── RateLimited            429  this key asks for more than it may
├── NotReady                   503  with Retry-After: loading or draining
│   ├── OutOfMemory            503  the device had no memory for this request; neighbours go on
│   ├── DeviceLost             503  the device failed for good; only a new process can use it
│   └── SharedStoreFailed      503  the store that replicas share cannot be reached
├── DeadlineExceeded           504
├── StorageError               507  the disk is full, read-only or not ours
└── EngineFault                500  the step of this sequence failed; neighbours go on

``status`` is the HTTP status, ``code`` the stable word that clients may match on. The mapping to
HTTP bodies lives in `app.api.problems` alone.
"""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class OvertoneError(Exception):
    """Base of all domain errors; ``str(error)`` is a sentence for the user, with what to do.

    ``retry_after_s``: when the same request may succeed; None where it will not by waiting.
    """

    status = 500
    code = "internal_error"
    retry_after_s: int | None = None


class BadRequest(OvertoneError):
    status = 422
    code = "bad_request"


class PromptTooLong(BadRequest):
    code = "prompt_too_long"


class AdapterRejected(BadRequest):
    """The adapter cannot be served over this base; ``problems`` lists every reason found."""

    code = "adapter_rejected"

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems)
        super().__init__(": ".join([message, *(["; ".join(self.problems)] if self.problems else [])]))


class ModelRejected(BadRequest):
    """The base model's files are damaged, incomplete or another model's.

    ``reason`` names file and tensor, and no path: it is told to clients, the whole message to the operator.
    """

    code = "model_rejected"

    def __init__(self, reason: str, model: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason if model is None else f"The model {model} could not be loaded: {reason}")


class DatasetError(BadRequest):
    """Data that cannot be trained on; ``problems`` names the first bad rows with their places."""

    code = "dataset_rejected"

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        found = list(problems)
        self.problems = found[:10] + ([f"and {len(found) - 10} more"] if len(found) > 10 else [])
        super().__init__(": ".join([message, *(["; ".join(self.problems)] if self.problems else [])]))


class MalformedBody(OvertoneError):
    status = 400
    code = "malformed_body"


class HostRefused(OvertoneError):
    status = 400
    code = "host_not_allowed"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"This server is not known as {host[:80]!r}; without keys, that keeps pages of other sites away. The "
            "operator can add the name to OVERTONE_ALLOWED_HOSTS, or set keys."
        )


class AudioError(OvertoneError):
    status = 415
    code = "not_audio"


class TooLarge(OvertoneError):
    status = 413
    code = "too_large"


class UploadStalled(OvertoneError):
    status = 408
    code = "upload_stalled"


class Unauthorized(OvertoneError):
    status = 401
    code = "unauthorized"


class Forbidden(OvertoneError):
    status = 403
    code = "forbidden"


class NotFound(OvertoneError):
    status = 404
    code = "not_found"


class AdapterNotFound(NotFound):
    code = "adapter_not_found"

    def __init__(self, name: str, known: Iterable[str] | None = None) -> None:
        """``known``: the names that whoever asks may see; None where that is not known."""
        self.name = name
        names = sorted(known or ())
        name = name[:80]  # of a client's choosing: comparing takes time, and an answer is to be read
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:8]) or 'none'}."
        super().__init__(f"There is no adapter {name!r}; {'it may have been removed.' if known is None else hint}")


class Conflict(OvertoneError):
    status = 409
    code = "conflict"


class QueueFull(OvertoneError):
    status = 429
    code = "queue_full"
    retry_after_s: int

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class RateLimited(QueueFull):
    code = "rate_limited"


class NotReady(OvertoneError):
    status = 503
    code = "not_ready"
    retry_after_s = 5


class OutOfMemory(NotReady):
    code = "out_of_memory"
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("The device had no memory left for this request; others go on. Send it again in a moment.")


class DeviceLost(NotReady):
    code = "device_lost"
    retry_after_s = 30

    def __init__(self) -> None:
        super().__init__("The device failed and this process can use it no more; the server must be restarted.")


class SharedStoreFailed(NotReady):
    code = "shared_store"


class DeadlineExceeded(OvertoneError):
    status = 504
    code = "deadline_exceeded"


class StorageError(OvertoneError):
    status = 507
    code = "storage"


class EngineFault(OvertoneError):
    status = 500
    code = "engine_fault"


DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_REFUSES = DISK_FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """Raise StorageError where the disk refuses inside; other errors pass. ``what``: where it is, for people."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_REFUSES:
            raise
        raise StorageError(
            f"{what} cannot be used ({error.strerror}); nothing was changed. The operator can free space, or make it "
            "writable."
        ) from error
