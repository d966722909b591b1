"""An error as OpenAI's clients know it: a status and an object with message, type, param and code."""

from typing import Any

from orca_jax.core.errors import ContextLengthError, RequestError

SERVER_ERROR = "The server had an error while processing your request."


class ApiError(Exception):
    """A refusal that is not about a field: it carries its own status, type and code.

    `retry_after` is in seconds, for those that are worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after


def api_error(error: Exception) -> ApiError:
    """Any exception as an `ApiError`: a mistake of the client's is a 400, all else a 500.

    A 500 has no details, for they may hold paths: what went wrong is for the server's own log.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded", param=error.parameter)
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.parameter)
    return ApiError(500, SERVER_ERROR, kind="server_error")


def error_object(error: ApiError) -> dict[str, Any]:
    """The body of an error's answer."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}}


def no_such_model(name: str, served: str) -> ApiError:
    """404 for a model that is not the one served here."""
    return ApiError(
        404,
        f"The model {name!r:.100} does not exist; this server has {served!r}.",
        code="model_not_found",
        param="model",
    )
