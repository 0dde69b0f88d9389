"""Maps student layers to the teacher layers that they learn from.

Layers are counted from 0. A map is fixed (`uniform`, `last`) or adaptive. In an
adaptive map the student's layers are `evenly_spaced`, and `choose` selects the
teacher layer of each by the `similarity` of their hidden states.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import errors
from kd.core import types

# Centered states with a norm below this fraction of the original are rounding
# errors.
_ROUNDING = 1e-6


def _check_pairs(pairs, layers, path):
  if not isinstance(pairs, int) or not 1 <= pairs <= layers:
    raise errors.ConfigError(path, f'found {pairs!r}', legal=f'1 to {layers}')


def evenly_spaced(layers: int, count: int, path: str) -> tuple[int, ...]:
  """Selects layers floor((i + 1) layers / count) - 1 for i = 0 .. count - 1.

  Args:
    layers: S.
    count: number of layers to select; the last one is the last layer.
    path: the config field of `count`, for the message.

  Returns:
    Strictly increasing layer numbers.

  Raises:
    ConfigError: `count` is not from 1 to `layers`.
  """
  _check_pairs(count, layers, path)
  return tuple((i + 1) * layers // count - 1 for i in range(count))


def uniform(
  student_layers: int, teacher_layers: int, pairs: int, path: str
) -> tuple[tuple[int, int], ...]:
  """Pairs layers that are evenly spaced in both models, up to the last ones.

  Args:
    student_layers: S of the student.
    teacher_layers: S of the teacher.
    pairs: number of pairs.
    path: the config field of `pairs`, for the message.

  Returns:
    (student layer, teacher layer) of each pair.

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
  """Pairs the last layers of both models; see `uniform` for the arguments."""
  _check_pairs(pairs, min(student_layers, teacher_layers), path)
  return tuple(
    (student_layers - i, teacher_layers - i) for i in range(pairs, 0, -1)
  )


def _product(x, y):
  """Sums outer products over tokens: [B, L, D], [B, L, E] to [D, E]."""
  return jnp.einsum('bld,ble->de', x, y, precision=jax.lax.Precision.HIGHEST)


def _norm(x):
  return jnp.sqrt(jnp.sum(jnp.square(x)))


def _centered(hidden, weights):
  """Returns sqrt(weight) (x - mean), scaled to norm 1; 0 for constant x."""
  counted = weights[..., None] > 0
  x = jnp.where(counted, hidden.astype(jnp.float32), 0.0)
  w = jnp.where(counted, weights[..., None], 0.0)
  total = jnp.sum(w)
  mean = jnp.sum(w * x, (0, 1)) / jnp.where(total > 0, total, 1.0)
  centered = jnp.sqrt(w) * (x - mean)
  # CKA is invariant to scale; at norm 1 fourth powers stay in float32's range.
  norm = _norm(centered)
  is_constant = norm <= _ROUNDING * _norm(jnp.sqrt(w) * x)  # False for NaN.
  return jnp.where(is_constant, 0.0, centered / norm)


def similarity(
  student: types.Array, teacher: types.Array, weights: types.Array
) -> types.Array:
  """Computes linear CKA of each student layer with each teacher layer.

  ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) in Frobenius norms (arXiv 1905.00414,
  section 3), where each token is weighted and X and Y are centered by their
  weighted means. The products are sums over tokens of size D x D, so that
  tokens may be sharded; they take n m D_s D_t multiplications per token. CKA is
  biased towards 1 if there are fewer tokens than D.

  Args:
    student: [n, B, L, D_s], hidden states of n layers.
    teacher: [m, B, L, D_t].
    weights: [B, L]; positions with weight 0 are ignored.

  Returns:
    float32 [n, m], from 0 to 1; 0 for a layer with constant states, NaN for one
    with states that are not finite.
  """

  def own_norm(hidden):
    x = _centered(hidden, weights)
    return _norm(_product(x, x))

  def row(layer):
    x = _centered(layer, weights)

    def entry(other):
      return jnp.sum(jnp.square(_product(x, _centered(other, weights))))

    return jax.lax.map(entry, teacher)

  cross = jax.lax.map(row, student)
  scale = jnp.outer(
    jax.lax.map(own_norm, student), jax.lax.map(own_norm, teacher)
  )
  return jnp.where(scale == 0, 0.0, cross / scale)


def choose(similarity: np.ndarray) -> np.ndarray:
  """Chooses teacher layers, in order, with the largest sum of similarities.

  They are strictly increasing if n <= m and nondecreasing otherwise. Ties are
  broken by the earliest layers, in lexicographic order.

  Args:
    similarity: [n, m].

  Returns:
    int32 [n], indices into the m teacher layers.
  """
  similarity = np.asarray(similarity, np.float64)
  n, m = similarity.shape
  step = 1 if n <= m else 0
  # rest[i, j]: the largest sum for student layers >= i and teacher layers >= j.
  rest = np.zeros((n + 1, m + 1))
  choice = np.zeros((n, m), np.int32)
  for i in reversed(range(n)):
    # Leave one layer for each later student layer.
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
