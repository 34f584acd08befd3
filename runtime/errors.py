"""Every error that a user can cause or mend. Anything else is a bug and keeps its traceback."""

from __future__ import annotations

import sys

from mmx.runtime.extras import install_command


class MmxError(Exception):
    """A message that says what is wrong (naming the file) and a hint that says what to do.

    ``code`` is the kind of error, in one word for programs. ``exit_code`` is what the ``mmx`` command exits with.
    """

    code: str = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MmxError):
    """The command line or the arguments ask for something that does not exist or does not fit together."""

    code = "usage"
    exit_code = 2


class ParityError(MmxError):
    """The deployed graph does not give the answers of the PyTorch system it came from."""

    code = "parity"
    exit_code = 3


class EnvironmentMissing(MmxError):
    """This machine lacks an extra, a driver, a provider or a device that was asked for."""

    code = "environment"
    exit_code = 4


class BadDataError(MmxError):
    """A file is broken, hostile, or not what its name says."""

    code = "bad_data"
    exit_code = 5


class ConnectionLost(BadDataError):
    """A stream or camera cannot be reached, or is gone; it may come back."""


class BackendFailed(BadDataError):
    """A backend failed while it ran a graph: the graph asks for what it cannot do, or for more memory than there is."""

    code = "backend_failed"


class MissingPath(BadDataError):
    """A file or folder that was named does not exist."""

    code = "missing_path"
    exit_code = UsageError.exit_code


def as_error(error: Exception, where: str = "") -> MmxError:
    """The error to report: a user's as it is; any other, a fault of mmx, with its name, and itself as the cause.

    Args:
        where: what it happened to, such as a file.
    """
    if isinstance(error, MmxError):
        return error
    said = f"{where}: {type(error).__name__}: {error}" if where else f"{type(error).__name__}: {error}"
    reported = MmxError(said, "this is a fault of mmx; please report it")
    reported.__cause__ = error
    return reported


def missing_extra(what: str, extra: str) -> EnvironmentMissing:
    """The error for an optional dependency that cannot be imported; names the pip command.

    Within ``except ImportError`` it tells a package that is not installed from one whose own imports fail.
    """
    error = sys.exception()
    name = (getattr(error, "name", None) or "").partition(".")[0].replace("_", "-").lower()
    if isinstance(error, ImportError) and not (isinstance(error, ModuleNotFoundError) and name in what.lower()):
        return EnvironmentMissing(f"{what} cannot be imported: {error}", f"{install_command(extra)} --upgrade")
    return EnvironmentMissing(f"{what} is not installed", install_command(extra))
