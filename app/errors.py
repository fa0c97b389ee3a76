"""All errors that reach users, as one tree.

OvertoneError
├── BadRequest                 422  a field is wrong; the message names it and a value that is accepted
│   ├── PromptTooLong          422
│   ├── AdapterRejected        422  validation refused the adapter
│   ├── ModelRejected          422  the base model's files cannot be served as they are
│   └── DatasetError           422  rows of a data set cannot be used
├── MalformedBody              400  the request's body is neither a form nor JSON
├── HostRefused                400  the Host header names another server
├── AudioError                 415  not audio, or audio that cannot be used
├── TooLarge                   413  body, clip, archive or seconds beyond the limit
├── UploadStalled              408  the client stopped sending in the middle of its body
├── Unauthorized               401
├── Forbidden                  403
├── AdapterNotFound            404
├── NotFound                   404
│   └── FeedbackOff            404  this server keeps no feedback
├── Conflict                   409  name taken, or in use
├── QueueFull                  429  with Retry-After
│   └── RateLimited            429  this key sends more requests than it may
├── NotReady                   503  with Retry-After: loading or draining
│   ├── OutOfMemory            503  the device had no memory for this request; other requests go on
│   ├── DeviceLost             503  the device failed for good; only a new process can use it
│   └── SharedStoreFailed      503  the store that replicas share cannot be reached
├── DeadlineExceeded           504
├── StorageError               507  the disk is full, or this process may not write to it
└── EngineFault                500  the step of this sequence failed; other requests go on

``status`` is the HTTP status, ``code`` the stable word that clients may match on. The mapping to
HTTP bodies lives in `app.api.problems` alone.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


def _with_problems(message: str, problems: list[str]) -> str:
    return f"{message}: {'; '.join(problems)}" if problems else message


class OvertoneError(Exception):
    """Base of all errors of this product; ``str(error)`` is a sentence for the user, with a way on.

    ``retry_after_s``: seconds after which the same request may succeed; None where waiting does not help.
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
        super().__init__(_with_problems(message, self.problems))


class ModelRejected(BadRequest):
    """The base model's files are damaged, incomplete or another model's.

    ``reason`` names file and tensor but no path, for clients; the whole message is for the operator.
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
        super().__init__(_with_problems(message, self.problems))


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

    def __init__(self, name: str, known: Iterable[str] | None = None, kept: Sequence[int] = ()) -> None:
        """``known``: names that the caller may see; None where the caller is not known.

        ``kept``: versions of a removed adapter, which the caller may bring back.
        """
        self.name = name
        names = sorted(known or ())
        name = name[:80]  # clients choose it: a long one takes time to compare and fills the answer
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:8]) or 'none'}."
        if kept:
            hint = f"it was removed, and rolling it back makes version {kept[-1]} current again."
        super().__init__(f"There is no adapter {name!r}; {'it may have been removed.' if known is None else hint}")


class FeedbackOff(NotFound):
    code = "feedback_off"

    def __init__(self) -> None:
        super().__init__(
            "This server keeps no feedback. The operator can set OVERTONE_FEEDBACK to a folder, and restart it."
        )


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
        super().__init__("The device failed, and this process can no longer use it; the server must be restarted.")


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


def path_error(error: OSError) -> OvertoneError:
    """The error of a path that a person named, in words: StorageError where the disk refuses, else BadRequest."""
    place, reason = error.filename, error.strerror or str(error)
    words = f"{place} cannot be used: {reason}" if place else reason
    if error.errno in _DISK_REFUSES:
        return StorageError(f"{words}. Name another place, or make this one readable and writable.")
    hint = _PATH_HINTS.get(error.errno or 0, "check the path")
    return BadRequest(f"{words}; {hint}.")


_PATH_HINTS = {
    errno.ENOENT: "check the path and the folder that you are in",
    errno.EEXIST: "there is a file of that name where a folder is needed",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed",
    errno.EISDIR: "it is a folder where a file is needed",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EADDRINUSE: "another program listens there",
}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_REFUSES = DISK_FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """Raise StorageError in place of errors of the disk; other errors pass. ``what``: the folder's name in messages."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_REFUSES:
            raise
        raise StorageError(
            f"{what} cannot be used ({error.strerror}); nothing was changed. The operator can free space, or make it "
            "writable."
        ) from error
