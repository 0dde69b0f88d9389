"""Checks the names, shapes and values of a model's tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import families
from kd.models import tensors as tensors_lib

_EXPONENTS = {
  np.dtype(ml_dtypes.bfloat16): 0x7F80,
  np.dtype(np.float16): 0x7C00,
}
_PIECE = 2**20  # Values to check at a time; they fit into the cache.


def check_shapes(source: Any) -> None:
  """Checks the names and shapes of a source's tensors against its config.

  Embeddings may have more rows than in the config, as padding.

  Args:
    source: a hf_weights.Source or gguf_weights.Source.

  Raises:
    ConfigError: tensors are missing, extra or of another shape; the message
      names the first few of each kind.
  """
  check(source, families.of(source.config).tensors(source.config))


def check(source: Any, tensors: Sequence[tensors_lib.Tensor]) -> None:
  """Checks the names and shapes of a source's tensors against a list.

  Args:
    source: object with `file`, `layout` and `shapes`, as in check_shapes.
    tensors: all tensors that it must contain.

  Raises:
    ConfigError: as for check_shapes.
  """
  wanted = {t.name(source.layout): t.file_shape for t in tensors}
  shapes = dict(source.shapes)
  for table in (t.name(source.layout) for t in tensors if t.is_table):
    if table in shapes and shapes[table][1:] == wanted[table][1:]:
      wanted[table] = max(shapes[table], wanted[table])
  missing = [
    f'{name} {list(shape)}'
    for name, shape in wanted.items()
    if name not in shapes
  ]
  unknown = [name for name in shapes if name not in wanted]
  other = [
    f'{name} has {list(shapes[name])}, expected {list(shape)}'
    for name, shape in wanted.items()
    if name in shapes and shapes[name] != shape
  ]
  problems = [
    *_summary(missing, 'missing'),
    *_summary(_with_nearest(unknown, shapes, missing), 'not part of the model'),
    *_summary(other, 'of another shape'),
  ]
  if problems:
    raise errors.ConfigError(
      source.file,
      f'the model has {len(wanted)} tensors; ' + '; '.join(problems),
    )


def _summary(lines: Sequence[str], kind: str) -> list[str]:
  if not lines:
    return []
  verb = 'is' if len(lines) == 1 else 'are'
  return [f'{len(lines)} {verb} {kind}: {errors.first_of(lines)}']


def _with_nearest(
  unknown: Sequence[str],
  shapes: Mapping[str, tuple[int, ...]],
  missing: Sequence[str],
) -> list[str]:
  """Returns lines for unknown names; adds the nearest missing name to a few."""
  lines = [f'{name} {list(shapes[name])}' for name in unknown]
  candidates = [line.partition(' ')[0] for line in missing]
  for i, name in enumerate(unknown[: errors.NAMED]):
    near = errors.nearest(name, candidates)
    lines[i] += f' (nearest: {near})' if near else ''
  return lines


def check_finite(array: np.ndarray, where: str) -> None:
  """Raises if an array has values that are not finite in float32.

  Args:
    array: array of any floating type; read once, in pieces, without a copy.
    where: file and tensor, for the message.

  Raises:
    ConfigError: there are such values; the message has their number.
  """
  flat = array.reshape(-1)
  bad, first = 0, -1
  for start in range(0, flat.size, _PIECE):
    piece = flat[start : start + _PIECE]
    if not _is_finite(piece):
      with np.errstate(over='ignore'):
        where_bad = np.flatnonzero(~np.isfinite(piece.astype(np.float32)))
      # Numbers just above the largest float32 are rounded to it.
      if first < 0 and len(where_bad):
        first = start + int(where_bad[0])
      bad += len(where_bad)
  if bad:
    index = [int(i) for i in np.unravel_index(first, array.shape)]
    raise errors.ConfigError(
      where,
      f'{bad} of {flat.size} values are not finite, the first at {index}: '
      f'{float(flat[first])}',
      legal='finite weights',
    )


def _is_finite(piece: np.ndarray) -> bool:
  """Returns whether all values are finite as float32."""
  if piece.dtype in _EXPONENTS:
    # numpy is slow for 16-bit types. Without the sign bit, a value is finite if
    # its bits are below those of infinity.
    bits = piece.view(np.uint16) & 0x7FFF
    return bool(bits.max() < _EXPONENTS[piece.dtype])
  # max and min propagate NaN.
  most = max(abs(float(piece.max())), abs(float(piece.min())))
  return most <= float(np.finfo(np.float32).max)


def check_finite_params(params: types.PyTree, where: str) -> None:
  """Raises if parameters on devices have NaN or infinite values.

  Args:
    params: the parameter tree; each device checks its shards.
    where: file or folder of the parameters, for the message.

  Raises:
    ConfigError: names the first few parameters that are not finite.
  """
  counts, _ = jax.tree_util.tree_flatten_with_path(
    jax.device_get(_count_nonfinite(params))
  )
  bad = [
    f'{count} of {leaf.size} values of '
    f'{jax.tree_util.keystr(path, simple=True, separator="/")}'
    for (path, count), leaf in zip(counts, jax.tree.leaves(params), strict=True)
    if count
  ]
  if bad:
    raise errors.ConfigError(
      where,
      f'{errors.first_of(bad)} are not finite',
      legal='finite weights',
    )


@jax.jit
def _count_nonfinite(params):
  # The largest stacked parameter of 27B has more values than int32 can count.
  count = lambda x: jnp.sum(~jnp.isfinite(x), dtype=jnp.uint32)
  return jax.tree.map(count, params)
