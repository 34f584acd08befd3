"""Why a request is rejected: an HTTP status, a code for programs, and a message for people."""

from __future__ import annotations

from mmx.runtime.errors import BackendFailed, BadDataError, MmxError, UsageError
from mmx.runtime.workers.task import Rejected

# The status of each code of ``Rejected``.
REJECTED = {
    "too_long": 413,
    "too_many_pixels": 413,
    "too_slow": 422,
    "too_much_memory": 422,
    "decoder_crashed": 422,
}


class Rejection(Exception):
    """A request that is rejected, or given up, with a reason for its sender.

    Args:
        status: of the HTTP response. code: the reason, one word for programs (``docs/serving.md`` lists them).
        message, hint: what is wrong and what to do; they name no path of the server.
        retry_after: seconds after which the same request may be taken.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.retry_after = retry_after

    def body(self) -> dict[str, dict[str, str]]:
        """The JSON body of the response, and the last event of a stream that broke off."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


def rejection_of(error: MmxError) -> Rejection:
    """The rejection for an error of the runtime: the sender's fault (413, 422, 400), or the server's (500)."""
    if isinstance(error, Rejected):
        return Rejection(REJECTED[error.code], error.code, error.message, error.hint)
    if isinstance(error, UsageError):
        return Rejection(400, "bad_request", error.message, error.hint)
    if isinstance(error, BadDataError) and not isinstance(error, BackendFailed):
        return Rejection(422, "bad_media", error.message, error.hint)
    return Rejection(500, "server_error", error.message, error.hint)


def deadline_passed(seconds: float, longest: float) -> Rejection:
    """There was no answer in time; ``longest``: what may be asked for."""
    hint = f"ask for a later deadline ({longest:g} s at most)" if seconds < longest else "try again later"
    return Rejection(504, "deadline", f"no answer within {seconds:g} s", f"send a shorter file, or {hint}")
