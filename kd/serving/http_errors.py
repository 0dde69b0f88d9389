"""Converts errors to replies in the format of the OpenAI API."""

from starlette import responses

from kd.core import errors
from kd.serving import lane
from kd.serving import scheduler
from kd.serving import served_model


class HttpError(Exception):
  """An error reply.

  Attributes:
    status: HTTP status.
    body: JSON body in the format of the OpenAI API.
    headers: headers of the reply.
  """

  def __init__(
    self,
    status: int,
    message: str,
    kind: str,
    code: str | None = None,
    field: str | None = None,
    headers: dict[str, str] | None = None,
  ):
    super().__init__(message)
    self.status, self.headers = status, headers
    self.body = {
      'error': {
        'message': message,
        'type': kind,
        'param': field,
        'code': code,
      }
    }

  def response(self) -> responses.Response:
    """Returns the reply."""
    return responses.JSONResponse(self.body, self.status, self.headers)


def converted(error: Exception) -> HttpError:
  """Returns the reply for an error; raises errors of other types."""
  if isinstance(error, HttpError):
    return error
  if isinstance(error, errors.ConfigError):
    unknown = isinstance(error, served_model.UnknownModelError)
    return HttpError(
      404 if unknown else 400,
      str(error),
      'invalid_request_error',
      'model_not_found' if unknown else None,
      error.path,
    )
  if isinstance(error, scheduler.BusyError):
    later = {'Retry-After': str(error.retry_after_s)}
    return HttpError(
      429, str(error), 'rate_limit_error', 'queue_full', headers=later
    )
  if isinstance(error, scheduler.StoppedError):
    later = {'Retry-After': '1'}
    return HttpError(503, str(error), 'server_error', headers=later)
  if isinstance(error, errors.NonFiniteError):
    return HttpError(500, str(error), 'server_error', 'not_finite')
  if isinstance(error, lane.ModelError):
    return HttpError(500, f'the model: {error}', 'server_error', 'model_failed')
  raise error


def fault(error: Exception) -> str:
  """Returns the fault of the model that an error shows; '' if none."""
  if isinstance(error, errors.NonFiniteError):
    return 'its logits are NaN or infinite'
  return str(error) if isinstance(error, lane.ModelError) else ''
