"""Fields of files that describe a model: config.json and GGUF metadata.

Errors report the file, the field, the value and the legal values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd.core import errors
from kd.core import json_files

# Bounds far above the sizes of real models. Larger values in a damaged file
# could exhaust memory before they are compared with its tensors.
MAX_SIZE = 2**31 - 1
MAX_LAYERS = 1024


def number(
  value: Any, path: str, kind: type = int, most: float = MAX_SIZE
) -> Any:
  """Checks and returns a size or a constant of a model.

  Args:
    value: the value in the file, or None.
    path: the file and its field, for messages.
    kind: int or float.
    most: the largest legal value.

  Returns:
    The value, as a `kind`.

  Raises:
    ConfigError: the value is missing, not a number, or out of range.
  """
  legal = f'a number above 0, up to {most}'
  if kind is int:
    legal = f'a whole number from 1 to {most}'
  if value is None:
    raise errors.ConfigError(path, 'missing', legal=legal)
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  # Compared first, since `int` and `float` fail on infinity and huge integers.
  if not is_number or not 0 < value <= most or kind(value) != value:
    raise errors.ConfigError(
      path, f'found {json_files.short(value)}', legal=legal
    )
  return kind(value)


def check_kv_heads(heads: int, kv_heads: int, path: str, name: str) -> None:
  """Raises ConfigError unless key and value heads divide the query heads.

  Args:
    heads: query heads.
    kv_heads: key and value heads.
    path: the file and field of `kv_heads`, for the message.
    name: the field of `heads`.
  """
  if heads % kv_heads:
    raise errors.ConfigError(
      path, f'found {kv_heads}', legal=f'divisors of {name} = {heads}'
    )


def nearest_decimal(x: float) -> float:
  """Returns the decimal that a float32 was written from: 1e-6, not 9.999e-7."""
  return float(str(np.float32(x)))


# The keys of the key and value heads, and of the query heads, in GGUF files.
GGUF_HEADS = ('attention.head_count_kv', 'attention.head_count')


class Json:
  """The fields of a JSON object, such as config.json."""

  def __init__(
    self,
    file: str,
    values: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
  ):
    """Wraps an object.

    Args:
      file: the object's file and its location there, for messages.
      values: the object.
      defaults: values of missing keys.
    """
    self.file = file
    self.values = values
    self._defaults = defaults or {}

  def path(self, key: str) -> str:
    """Returns the name of a field in messages."""
    return f'{self.file}: {key}'

  def error(self, key: str, found: str, legal: str = '') -> errors.ConfigError:
    """Returns the error about a field."""
    return errors.ConfigError(self.path(key), found, legal=legal)

  def has(self, key: str) -> bool:
    """Returns whether the key is there and is not null."""
    return self.values.get(key) is not None

  def number(self, key: str, kind: type = int, most: float = MAX_SIZE) -> Any:
    """Returns the number at `key`, above 0 and at most `most`."""
    value = self.values[key] if self.has(key) else self._defaults.get(key)
    return number(value, self.path(key), kind, most)

  def kv_heads(self, key: str, of: str) -> int:
    """Returns the number at `key`, which must divide the one at `of`."""
    heads, kv_heads = self.number(of), self.number(key)
    check_kv_heads(heads, kv_heads, self.path(key), of)
    return kv_heads

  def object(self, key: str) -> Mapping[str, Any]:
    """Returns the object at `key`."""
    value = self.values.get(key)
    if not isinstance(value, dict):
      found = 'missing' if value is None else f'found {json_files.short(value)}'
      raise self.error(key, found, legal='an object')
    return value

  def check_fixed(self, fixed: Mapping[str, Any]) -> None:
    """Raises ConfigError if a key has another value than the legal one.

    Args:
      fixed: the legal value of each key. A key may be missing, and null means
        false.
    """
    for key, legal in fixed.items():
      value = self.values.get(key, legal)
      if (value or None) != (legal or None):
        found = json_files.short(value)
        raise self.error(key, f'found {found}', repr(legal))

  def layer_types(
    self, count: int, kinds: Mapping[str, str]
  ) -> tuple[str, ...] | None:
    """Returns the kinds of layers in `layer_types`, None if it is missing.

    Args:
      count: the number of layers.
      kinds: kind of layer by legal name of a type.
    """
    key = 'layer_types'
    if not self.has(key):
      return None
    listed = self.values[key]
    if not isinstance(listed, list):
      found = f'found {json_files.short(listed)}'
      raise self.error(key, found, legal='a list')
    for name in listed:
      if not isinstance(name, str) or name not in kinds:
        raise errors.unknown(
          self.path(key), 'type', json_files.short(name).strip("'"), list(kinds)
        )
    if len(listed) != count:
      raise self.error(
        key,
        f'{len(listed)} entries',
        legal=f'num_hidden_layers = {count} entries',
      )
    return tuple(kinds[name] for name in listed)


def rope_factor(fields: Json, key: str, scaling: Any) -> float:
  """Returns the divisor of positions.

  Args:
    fields: the object that contains `scaling`.
    key: its key, for messages.
    scaling: the value of a `rope_scaling`, or an entry of `rope_parameters`.

  Raises:
    ConfigError: the scaling is neither none nor linear.
  """
  types = []
  if isinstance(scaling, dict):
    types = [scaling[k] for k in ('rope_type', 'type') if k in scaling]
    if types in ([], ['default']) and 'factor' not in scaling:
      return 1.0
  if not types or any(kind != 'linear' for kind in types):
    raise fields.error(
      key,
      f'found {json_files.short(scaling)}',
      legal="rope_type 'default', or 'linear' with a factor",
    )
  return Json(fields.path(key), scaling).number('factor', float)


class Gguf(Json):
  """The metadata of one architecture in a GGUF file."""

  def __init__(
    self,
    file: str,
    architecture: str,
    metadata: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
  ):
    """Wraps the fields of an architecture.

    Args:
      file: the file, for messages.
      architecture: the prefix of the fields' keys.
      metadata: all fields of the file.
      defaults: values of missing fields, by key without the prefix.
    """
    self._prefix = f'{architecture}.'
    own = {
      key.removeprefix(self._prefix): value
      for key, value in metadata.items()
      if key.startswith(self._prefix)
    }
    super().__init__(file, own, defaults)

  def path(self, key: str) -> str:
    """Returns the name of a field in messages."""
    return super().path(self._prefix + key)

  def get(self, key: str) -> Any:
    """Returns the field, or None if the file has no such field."""
    return self.values.get(key)

  def rope_factor(self) -> float:
    """Returns the divisor of positions.

    A factor without a type is linear; `rope.scale_linear` is its older name.
    """
    kind = self.get('rope.scaling.type')
    if kind not in (None, 'none', 'linear'):
      raise self.error(
        'rope.scaling.type', f'found {json_files.short(kind)}', 'none, linear'
      )
    if kind == 'none':
      return 1.0
    for name in ('rope.scaling.factor', 'rope.scale_linear'):
      if self.get(name) is not None:
        return self.number(name, kind=float)
    if kind == 'linear':
      self.number('rope.scaling.factor', kind=float)  # Raises: it is missing.
    return 1.0
