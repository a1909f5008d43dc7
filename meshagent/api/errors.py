"""App Mesh's errors by their own names, and how they go over the wire: status, x-amzn-ErrorType, {"message", "code"}.

A refused document of ours adds "errors": what is wrong with which document, where. Knows nothing of HTTP servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from meshagent.errors import MeshagentError


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one resource: `path` inside it, `file` and `line` where it was written down, as far as known."""

    resource: str
    path: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return ": ".join(part for part in (self.resource, self.path, self.message) if part)


class ApiError(MeshagentError):
    """An answer other than 200. The class's name is the error's code."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)

    @property
    def code(self) -> str:
        return type(self).__name__

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-amzn-ErrorType": self.code}

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"message": str(self), "code": self.code}
        if self.faults:
            body["errors"] = [asdict(fault) for fault in self.faults]
        return body

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> ApiError:
        """All faults in one error: the message says the first ones, `errors` all."""
        shown = "; ".join(map(str, faults[:5]))
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        return cls(shown + more, faults)


class BadRequestException(ApiError):
    status = 400


class ConflictException(ApiError):
    status = 409


class ForbiddenException(ApiError):
    status = 403


class InternalServerErrorException(ApiError):
    status = 500


class LimitExceededException(ApiError):
    status = 400


class NotFoundException(ApiError):
    status = 404


class ResourceInUseException(ApiError):
    status = 409


class ServiceUnavailableException(ApiError):
    status = 503


class UnknownOperationException(ApiError):
    status = 404
