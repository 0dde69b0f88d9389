"""Building blocks of the layers of several families.

These are a norm, the rotary embedding, grouped-query attention and a gated MLP.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import types
from kd.models import computed
from kd.models import family
from kd.models import matmul
from kd.models.attention import attention
from kd.partitioning import rules

Array = types.Array
# Maps the inputs of a product, the number of last axes that form a vector, and
# the range of all inputs (float32 [], or None) to the inputs that are used.
RoundInputs = Callable[[Array, int, Array | None], Array]

# Key of a parameter of some modules: the ranges of the inputs of their two
# products, float32 [2]; see quantization.running_ranges.
INPUT_RANGES = 'input_ranges'

# Scopes of operations, by which a plan classifies a program's memory.
KV_CACHE = 'kv_cache'
TRANSFORMER_LAYERS = 'transformer_layers'

# Logical axes of [B, L, D] between layers. A decoding step has few rows of one
# token. Their sums over devices are much smaller than the weights, so rows are
# gathered and weights are not.
BY_ROW_AXES = ('batch', 'length', None)
DECODING_AXES = ('gathered_batch', None, 'embed')

# Logical axes of an MLP's matrices and of a norm's parameter.
WIDE_AXES, NARROW_AXES, NORM_AXES = (
  ('embed', 'mlp'),
  ('mlp', 'embed'),
  ('norm',),
)


def _parameter(module, name, init, shape, axes):
  if module.has_variable('params', name):
    held = module.get_variable('params', name)
    if isinstance(held, computed.Operand):
      return held
  parameter = module.param(
    name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )
  return computed.value(parameter)


@functools.cache
def _fan_in(in_axis, out_axis):
  init = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal', in_axis=in_axis, out_axis=out_axis
  )
  # Flax traces it at every use of the parameter, to compare shapes. With jit it
  # is traced once for each shape.
  return jax.jit(init, static_argnums=(1, 2))


def unrounded(x: Array, axes: int, input_range: Array | None) -> Array:
  """Returns the inputs of a product unchanged; see RoundInputs."""
  del axes, input_range
  return x


def input_ranges(module: nn.Module) -> tuple[Array, ...]:
  """Returns a tuple with the input ranges of a module, or an empty one."""
  if module.has_variable('params', INPUT_RANGES):
    return (module.get_variable('params', INPUT_RANGES),)
  return ()


def without_padding(x: Array, mask: attention_mask.AttentionMask) -> Array:
  """Returns x [B, L, ...], 0 at padding, which ranges must not depend on."""
  ids = mask.row.segment_ids
  return jnp.where(ids.reshape(*ids.shape, *[1] * (x.ndim - 2)) > 0, x, 0)


def _range(ranges, product):
  return ranges[0][product] if ranges else None


def rms_norm(x: Array, scale: Array, epsilon: float, offset: float) -> Array:
  """Computes the RMS norm of the last axis, times `offset + scale`.

  It is computed in float32; the result has the type of x.
  """
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(mean_square + epsilon)
  weight = offset + scale.astype(jnp.float32)
  return (normed * weight).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm; see rms_norm.

  Attributes:
    epsilon: added to the mean square.
    axis_name: logical name of the parameter's axis.
    offset: 1 if the parameter is stored minus 1, else 0.
  """

  epsilon: float
  axis_name: str
  offset: float

  @nn.compact
  def scale(self, width: int) -> Array:
    """Returns its parameter, [width]."""
    init = nn.initializers.zeros if self.offset else nn.initializers.ones
    return _parameter(self, 'scale', init, (width,), (self.axis_name,))

  def __call__(self, x: Array) -> Array:
    """Normalizes the last axis of x [..., D]; keeps its type."""
    scale = self.scale(x.shape[-1])
    return rms_norm(x, scale, self.epsilon, self.offset)


def rotary_angles(
  positions: Array, head_dim: int, base: float, factor: float
) -> Array:
  """Computes angles of the rotary embedding (arXiv 2104.09864), float32.

  Args:
    positions: int32 [B, L].
    head_dim: H.
    base: base of the geometric series of frequencies.
    factor: positions are divided by it (linear scaling).

  Returns:
    [B, L, H / 2] in radians.
  """
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequencies = 1.0 / (base**exponents) / factor
  return positions[..., None].astype(jnp.float32) * frequencies


def rotate(x: Array, angles: Array) -> Array:
  """Rotates pairs from both halves of x [B, L, N, H] by [B, L, H / 2]."""
  cos = jnp.cos(angles)[:, :, None, :]
  sin = jnp.sin(angles)[:, :, None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x.dtype)


class Attention(nn.Module):
  """Grouped-query attention with normalized queries and keys.

  Attributes:
    config: the model's sizes.
    norm_offset: offset of the norms, see RMSNorm.
    kernel: kernel for attention without a cache, see attention.causal.
    round_inputs: rounding of the inputs of products with weights.
  """

  config: family.Config
  norm_offset: float
  kernel: str
  round_inputs: RoundInputs

  @nn.compact
  def __call__(self, x, angles, seen, cache, slots):
    """Computes attention, within rows or with a cache of earlier keys.

    Args:
      x: [B, L, D].
      angles: [B, L, H / 2], see rotary_angles.
      seen: without a cache, an attention_mask.AttentionMask; with one, bool
        [B, L, M], whether a query sees a key.
      cache: None, or (key, value), each [B, M, G, H], to write to and read.
      slots: None, or int32 [B, L], slot of each position in the cache.

    Returns:
      [B, L, D], the updated cache, and the inputs (query, key, value) of
      attention for these positions: [B, L, N, H], [B, L, G, H], [B, L, G, H].
    """
    c = self.config
    d, n, g, h = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim
    into = _fan_in(0, (1, 2))
    w_query = _parameter(
      self, 'query', into, (d, n, h), ('embed', 'heads', 'head_width')
    )
    w_key = _parameter(
      self, 'key', into, (d, g, h), ('embed', 'kv_heads', 'head_width')
    )
    w_value = _parameter(
      self, 'value', into, (d, g, h), ('embed', 'kv_heads', 'head_width')
    )
    w_out = _parameter(
      self,
      'out',
      _fan_in((0, 1), 2),
      (n, h, d),
      ('heads', 'head_width', 'embed'),
    )

    def norm(name):
      return RMSNorm(c.norm_epsilon, 'head_width', self.norm_offset, name=name)

    ranges = input_ranges(self)
    x = self.round_inputs(x, 1, _range(ranges, 0))

    def project(w, axis):
      projected = matmul.project(x, w)
      if cache is None:
        return projected
      return rules.constrain(projected, ('batch', None, axis, None))

    query = rotate(norm('query_norm')(project(w_query, 'heads')), angles)
    key = rotate(norm('key_norm')(project(w_key, 'kv_heads')), angles)
    value = project(w_value, 'kv_heads')
    heads = (query, key, value)
    scale = c.attention_scale
    if cache is None:
      attended = self.attend(query, key, value, seen)
      if ranges:
        # For a query that sees no key, attention is the mean of all values.
        attended = without_padding(attended, seen)
    else:
      rows = jnp.arange(x.shape[0])[:, None]
      with jax.named_scope(KV_CACHE):
        key = cache[0].at[rows, slots].set(key.astype(cache[0].dtype))
        value = cache[1].at[rows, slots].set(value.astype(cache[1].dtype))
      cache = (key, value)
      attended = attention.dense(
        query, key.astype(x.dtype), value.astype(x.dtype), seen, scale
      )
      names = ('gathered_batch', None, 'heads', None)
      attended = rules.constrain(attended, names)
    attended = self.round_inputs(attended, 2, _range(ranges, 1))
    return matmul.project(attended, w_out), cache, heads

  def attend(self, query, key, value, mask):
    """Computes attention within rows: [B, L, N, H].

    This is a separate method so that layer_measures can intercept it.
    """
    scale = self.config.attention_scale
    return attention.causal(query, key, value, mask, scale, self.kernel)


class MLP(nn.Module):
  """The weights of a gated MLP; see gated_mlp.

  Attributes:
    config: the model's sizes.
  """

  config: family.Config

  @nn.compact
  def weights(self) -> tuple[Array, Array, Array]:
    """Returns its parameters: gate [D, F], up [D, F] and down [F, D]."""
    d, f = self.config.embed_dim, self.config.mlp_dim
    return (
      _parameter(self, 'gate', _fan_in(0, 1), (d, f), WIDE_AXES),
      _parameter(self, 'up', _fan_in(0, 1), (d, f), WIDE_AXES),
      _parameter(self, 'down', _fan_in(0, 1), (f, d), NARROW_AXES),
    )

  def input_ranges(self) -> tuple[Array, ...]:
    """Returns the module's input ranges; see the function."""
    return input_ranges(self)


def gated_mlp(
  activation: Callable[[Array], Array],
  round_inputs: RoundInputs,
  axes: tuple[str | None, ...],
  x: Array,
  gate: Array,
  up: Array,
  down: Array,
  ranges: tuple[Array, ...] = (),
) -> Array:
  """Computes `(activation(x gate) * (x up)) down` for x [B, L, D].

  Args:
    activation: activation of the gate.
    round_inputs: rounding of the inputs of the products.
    axes: logical axes of x.
    x: [B, L, D].
    gate: [D, F].
    up: [D, F].
    down: [F, D].
    ranges: see input_ranges.

  Returns:
    [B, L, D].
  """
  x = round_inputs(x, 1, _range(ranges, 0))
  hidden = gated_hidden(activation, axes, x, gate, up)
  return matmul.project(round_inputs(hidden, 1, _range(ranges, 1)), down)


def gated_hidden(
  activation: Callable[[Array], Array],
  axes: tuple[str | None, ...],
  x: Array,
  gate: Array,
  up: Array,
) -> Array:
  """Computes the hidden values [B, L, F] of gated_mlp."""
  hidden = activation(matmul.project(x, gate))
  hidden = hidden * matmul.project(x, up)
  return rules.constrain(hidden, (*axes[:2], 'mlp'))
