"""Chooses the model that answers a request."""

from collections.abc import Sequence

from kd.core import errors
from kd.serving import served_model


class Router:
  """Finds models by the names in requests."""

  def __init__(self, models: Sequence[served_model.ServedModel]):
    self._models = tuple(models)

  def listed(self) -> dict[str, served_model.ServedModel]:
    """Returns the models by the names that requests may use."""
    return {model.name: model for model in self._models}

  def pick(self, name: str | None) -> served_model.ServedModel:
    """Returns the model that answers a request.

    Args:
      name: name of the model in the request; None if it has none.

    Raises:
      ConfigError: there is no such model, or no name and several models.
    """
    if name is None and len(self._models) == 1:
      return self._models[0]
    if name is None:
      raise errors.ConfigError(
        'model', 'not given', legal=', '.join(self.listed())
      )
    return served_model.named(self._models, name)

  def note(
    self,
    model: served_model.ServedModel,
    code: int,
    first_s: float | None,
    fault: str = '',
  ) -> None:
    """Records the result of a request.

    Args:
      model: the model that answered.
      code: HTTP status.
      first_s: seconds from the queue to the first token; None without one.
      fault: why the model must get no more requests; '' if it may.
    """
