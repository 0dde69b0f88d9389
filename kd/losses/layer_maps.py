"""Which student layer learns from which teacher layer.

Layers are counted from 0. A map is fixed (`uniform`, `last`) or measured: the
student's layers are then `evenly_spaced` and each takes the teacher layer that
`choose` finds in the `similarity` of their hidden states.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import errors
from kd.core import types

# Below this share of the states' norm, what is left after centring is rounding.
_ROUNDING = 1e-6


def _check_pairs(pairs, layers, path):
  if not isinstance(pairs, int) or not 1 <= pairs <= layers:
    raise errors.ConfigError(path, f'found {pairs!r}', legal=f'1 to {layers}')


def evenly_spaced(layers: int, count: int, path: str) -> tuple[int, ...]:
  """`count` of `layers` layers, floor((i + 1) layers / count) - 1 for each i.

  Args:
    layers: S.
    count: how many; the last of them is the last layer.
    path: the config path of `count`, for the message.

  Returns:
    Strictly increasing layers.

  Raises:
    ConfigError: `count` is not from 1 to `layers`.
  """
  _check_pairs(count, layers, path)
  return tuple((i + 1) * layers // count - 1 for i in range(count))


def uniform(
  student_layers: int, teacher_layers: int, pairs: int, path: str
) -> tuple[tuple[int, int], ...]:
  """Pairs that are evenly spaced in both models, the last with the last.

  Args:
    student_layers: S of the student.
    teacher_layers: S of the teacher.
    pairs: how many.
    path: the config path of `pairs`, for the message.

  Returns:
    (student layer, teacher layer) for each pair.

  Raises:
    ConfigError: `pairs` is below 1 or above the layers of either model.
  """
  _check_pairs(pairs, min(student_layers, teacher_layers), path)
  sides = [
    evenly_spaced(layers, pairs, path)
    for layers in (student_layers, teacher_layers)
  ]
  return tuple(zip(*sides, strict=True))


def last(
  student_layers: int, teacher_layers: int, pairs: int, path: str
) -> tuple[tuple[int, int], ...]:
  """The last `pairs` layers of both models; arguments as for `uniform`."""
  _check_pairs(pairs, min(student_layers, teacher_layers), path)
  return tuple(
    (student_layers - i, teacher_layers - i) for i in range(pairs, 0, -1)
  )


def _product(x, y):
  """Sum over tokens of outer products, [B, L, D], [B, L, E] to [D, E]."""
  return jnp.einsum('bld,ble->de', x, y, precision=jax.lax.Precision.HIGHEST)


def _norm(x):
  return jnp.sqrt(jnp.sum(jnp.square(x)))


def _centred(hidden, weights):
  """sqrt(weight) (x - mean) in float32, scaled to norm 1; 0 if all x agree."""
  counted = weights[..., None] > 0
  x = jnp.where(counted, hidden.astype(jnp.float32), 0.0)
  w = jnp.where(counted, weights[..., None], 0.0)
  total = jnp.sum(w)
  mean = jnp.sum(w * x, (0, 1)) / jnp.where(total > 0, total, 1.0)
  centred = jnp.sqrt(w) * (x - mean)
  # CKA does not change with scale; at norm 1 its fourth powers stay in float32.
  norm = _norm(centred)
  is_constant = norm <= _ROUNDING * _norm(jnp.sqrt(w) * x)  # False for NaN.
  return jnp.where(is_constant, 0.0, centred / norm)


def similarity(
  student: types.Array, teacher: types.Array, weights: types.Array
) -> types.Array:
  """Linear CKA of each student layer with each teacher layer.

  ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) in Frobenius norms (arXiv 1905.00414,
  section 3), where each token counts by its weight and X and Y are centred by
  their weighted means. The products are sums over tokens of size D x D, so
  that tokens may be sharded; n m D_s D_t multiplications a token. CKA is biased
  towards 1 where there are fewer tokens than D.

  Args:
    student: [n, B, L, D_s], hidden states of n layers.
    teacher: [m, B, L, D_t].
    weights: [B, L]; what stands where this is 0 is not read.

  Returns:
    float32 [n, m], from 0 to 1; 0 for a layer whose states do not vary, NaN for
    one whose states are not finite.
  """

  def own_norm(hidden):
    x = _centred(hidden, weights)
    return _norm(_product(x, x))

  def row(layer):
    x = _centred(layer, weights)

    def entry(other):
      return jnp.sum(jnp.square(_product(x, _centred(other, weights))))

    return jax.lax.map(entry, teacher)

  cross = jax.lax.map(row, student)
  scale = jnp.outer(
    jax.lax.map(own_norm, student), jax.lax.map(own_norm, teacher)
  )
  return jnp.where(scale == 0, 0.0, cross / scale)


def choose(similarity: np.ndarray) -> np.ndarray:
  """The teacher layer for each student layer, in order, of largest sum.

  Layers increase strictly if the teacher has enough of them and do not
  decrease otherwise. Among equal sums the earliest layers win, the first
  student layer choosing first.

  Args:
    similarity: [n, m].

  Returns:
    int32 [n], indices into the m teacher layers.
  """
  similarity = np.asarray(similarity, np.float64)
  n, m = similarity.shape
  step = 1 if n <= m else 0
  # rest[i, j]: the best sum of student layers from i on, teacher layers from j.
  rest = np.zeros((n + 1, m + 1))
  choice = np.zeros((n, m), np.int32)
  for i in reversed(range(n)):
    # Later student layers need a layer each.
    end = m - step * (n - 1 - i)
    sums = similarity[i, :end] + rest[i + 1, step : end + step]
    for j in reversed(range(end)):
      choice[i, j] = j + np.argmax(sums[j:])
      rest[i, j] = sums[choice[i, j]]
  chosen = np.zeros(n, np.int32)
  start = 0
  for i in range(n):
    chosen[i] = choice[i, start]
    start = chosen[i] + step
  return chosen
