"""The errors of the service, each with its HTTP status and its code.

```
ServiceError                 500  internal_error
├── InvalidRequest           400  invalid_request          param names the request field
│   ├── ContextTooLong       400  context_length_exceeded
│   └── ImageRejected        400  invalid_image            unreadable, too large, refused address, failed fetch
├── Unauthenticated          401  invalid_api_key
├── Forbidden                403  permission_denied
├── UnknownModel             404  model_not_found
├── RequestTimeout           408  request_timeout          headers or body came too slowly
├── PayloadTooLarge          413  request_too_large
├── HeadersTooLarge          431  headers_too_large
├── RateLimited              429  rate_limit_exceeded      the caller's own limit; Retry-After
├── Overloaded               503  overloaded               our limit; Retry-After
├── AuditUnavailable         503  audit_unavailable        audit.mode is required; Retry-After
├── DeadlineExceeded         504  deadline_exceeded
└── EngineFailed             500  engine_error
    └── ReplicaLost          500  replica_lost             its process died; the request may be sent again
```

`ingress/errors.py` maps them to HTTP; `ingress/validation.py` maps pydantic's errors to InvalidRequest; `pipeline.py`
maps Ray's errors to these. Status and code are class attributes and the constructor passes all its arguments to
`Exception`: an error crosses process borders by pickling, which keeps only `args`, and Ray raises it as a subclass.
"""

from collections.abc import Mapping
from types import MappingProxyType


class ServiceError(Exception):
    """The service failed; the request cannot be corrected by the caller."""

    status = 500
    code = "internal_error"
    retry_after_s: float | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class InvalidRequest(ServiceError):
    """The request is invalid or not supported; `param` names the field."""

    status = 400
    code = "invalid_request"


class ContextTooLong(InvalidRequest):
    """Prompt and answer together do not fit the model's context."""

    code = "context_length_exceeded"


class ImageRejected(InvalidRequest):
    """A picture is unreadable, too large, at a refused address, or could not be fetched."""

    code = "invalid_image"


class Unauthenticated(ServiceError):
    """The request has no valid credentials."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ServiceError):
    """The caller, or the web page that sent the request, may not do this."""

    status = 403
    code = "permission_denied"


class UnknownModel(ServiceError):
    """The request names a model that is not served here."""

    status = 404
    code = "model_not_found"


class RequestTimeout(ServiceError):
    """The headers or the body of a request arrived too slowly."""

    status = 408
    code = "request_timeout"


class HeadersTooLarge(ServiceError):
    """The request line and headers are larger than the service accepts."""

    status = 431
    code = "headers_too_large"


class PayloadTooLarge(ServiceError):
    """The request body is larger than the limit."""

    status = 413
    code = "request_too_large"


class RateLimited(ServiceError):
    """The caller has exceeded its own rate limit."""

    status = 429
    code = "rate_limit_exceeded"
    retry_after_s = 1.0
    headers: Mapping[str, str] = MappingProxyType({})  # x-ratelimit-*: what is left of the limits


class Overloaded(ServiceError):
    """The service is at its limit of work."""

    status = 503
    code = "overloaded"
    retry_after_s = 1.0


class AuditUnavailable(ServiceError):
    """The audit log can't be written, and the service gives no answer without it."""

    status = 503
    code = "audit_unavailable"
    retry_after_s = 5.0


class DeadlineExceeded(ServiceError):
    """The answer was not ready before the request's deadline."""

    status = 504
    code = "deadline_exceeded"


class EngineFailed(ServiceError):
    """The model failed on this request; other requests continue."""

    code = "engine_error"


class ReplicaLost(EngineFailed):
    """The process that worked on this request died; another one can answer it."""

    code = "replica_lost"
