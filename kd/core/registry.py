"""Registries of named parts whose arguments come from the config."""

from collections.abc import Callable, Mapping
import inspect
from typing import Any

from kd.core import errors

_BY_KIND: dict[str, 'Registry'] = {}


def of(kind: str) -> 'Registry | None':
  """Returns the registry of a kind, or None if its module is not imported."""
  return _BY_KIND.get(kind)


class Registry:
  """Builders of one kind by name; each builder's signature is its schema.

  A builder gets its positional arguments from the code and its keyword-only
  arguments from the config, except for `name`. It refuses a value by raising a
  ConfigError with the argument's name as the path. Plugins may register more
  builders, whose config fields kd/config/registered.py derives.
  """

  def __init__(self, kind: str):
    self.kind = kind
    self._builders: dict[str, Callable[..., Any]] = {}
    self._listeners: list[Callable[[str], None]] = []
    _BY_KIND[kind] = self

  def register(self, name: str) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a builder under `name`.

    If parts have no arguments, the part itself is registered.
    """

    def add(builder):
      if name in self._builders:
        raise ValueError(f'{self.kind} {name!r} is registered twice')
      self._builders[name] = builder
      for listener in self._listeners:
        listener(name)
      return builder

    return add

  def names(self) -> list[str]:
    return sorted(self._builders)

  def for_each(self, listener: Callable[[str], None]) -> None:
    """Calls `listener` with each name, including those registered later."""
    for name in self.names():
      listener(name)
    self._listeners.append(listener)

  def __getitem__(self, name: str) -> Any:
    """Returns what is registered under `name`."""
    return self._builders[name]

  def __contains__(self, name: str) -> bool:
    return name in self._builders

  def arguments(self, name: str) -> dict[str, inspect.Parameter]:
    """Returns the keyword-only parameters of a builder."""
    signature = inspect.signature(self._builders[name], eval_str=True)
    parameters = signature.parameters
    return {
      key: p
      for key, p in parameters.items()
      if p.kind is inspect.Parameter.KEYWORD_ONLY
    }

  def check(self, spec: Mapping[str, Any], path: str) -> None:
    """Raises ConfigError if `spec` has an unknown name or wrong arguments.

    Args:
      spec: `name` and the arguments.
      path: config path of `spec`, for the message.
    """
    if spec['name'] not in self._builders:
      raise errors.unknown(
        f'{path}.name', self.kind, str(spec['name']), self.names()
      )
    legal = self.arguments(spec['name'])
    for key in spec:
      if key != 'name' and key not in legal:
        raise errors.unknown(
          f'{path}.{key}', f'argument of {spec["name"]}', key, list(legal)
        )
    for key, parameter in legal.items():
      if parameter.default is inspect.Parameter.empty and key not in spec:
        raise errors.ConfigError(
          f'{path}.{key}', f'missing: {spec["name"]} needs it'
        )

  def build(self, spec: Mapping[str, Any], path: str, *args: Any) -> Any:
    """Checks `spec` and calls its builder with `args` and the arguments."""
    self.check(spec, path)
    arguments = {k: v for k, v in spec.items() if k != 'name'}
    try:
      return self._builders[spec['name']](*args, **arguments)
    except errors.ConfigError as e:
      raise e.within(path) from e
