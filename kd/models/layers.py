"""Norm, rotary embedding, attention and MLP of Gemma 3 (arXiv 2503.19786)."""

import functools

from flax import linen as nn
import jax
from jax import ad_checkpoint
import jax.numpy as jnp

from kd.core import types
from kd.models import attention
from kd.models import gemma3_config
from kd.models import matmul
from kd.partitioning import rules

Array = types.Array

# The name of the value that rematerialization saves.
LAYER_INPUT = 'layer_input'
# Scopes of operations, by which a plan sorts what a program keeps in memory.
KV_CACHE = 'kv_cache'
TRANSFORMER_LAYERS = 'transformer_layers'

# Logical axes of [B, L, D] between layers. A decoding step has few rows of one
# token: sums of them over devices are much smaller than the weights, so weights
# stay where they are and rows are gathered.
_BY_ROW = ('batch', 'length', None)
DECODING_AXES = ('gathered_batch', None, 'embed')


def _parameter(module, name, init, shape, axes):
  return module.param(
    name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
  )


@functools.cache
def _fan_in(in_axis, out_axis):
  init = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal', in_axis=in_axis, out_axis=out_axis
  )
  # Flax traces it at every use of the parameter, to compare shapes: this way
  # once for each shape.
  return jax.jit(init, static_argnums=(1, 2))


def rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
  """Root-mean-square norm of the last axis with weight `1 + scale`.

  It is computed in float32 throughout; what it gives has the type of x.
  """
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(mean_square + epsilon)
  weight = 1.0 + scale.astype(jnp.float32)
  return (normed * weight).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm; see rms_norm."""

  epsilon: float
  axis_name: str

  @nn.compact
  def scale(self, width: int) -> Array:
    """Its parameter, [width]."""
    zeros = nn.initializers.zeros
    return _parameter(self, 'scale', zeros, (width,), (self.axis_name,))

  def __call__(self, x: Array) -> Array:
    """Normalises the last axis of x [..., D]; keeps its dtype."""
    return rms_norm(x, self.scale(x.shape[-1]), self.epsilon)


def rotary_angles(
  positions: Array, head_dim: int, base: float, factor: float
) -> Array:
  """Angles of the rotary embedding (arXiv 2104.09864), float32.

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


def angles(
  config: gemma3_config.Gemma3Config, positions: Array
) -> dict[str, Array]:
  """The rotary angles of positions [B, L] by kind of layer: [B, L, H / 2]."""
  c = config
  return {
    gemma3_config.LOCAL: rotary_angles(
      positions, c.head_dim, c.local_rope_base, 1.0
    ),
    gemma3_config.GLOBAL: rotary_angles(
      positions, c.head_dim, c.global_rope_base, c.global_rope_factor
    ),
  }


def rotate(x: Array, angles: Array) -> Array:
  """Rotates x [B, L, N, H], first half against second, by [B, L, H / 2]."""
  cos = jnp.cos(angles)[:, :, None, :]
  sin = jnp.sin(angles)[:, :, None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x.dtype)


class Attention(nn.Module):
  """Grouped-query attention with normed queries and keys.

  Attributes:
    config: the model's sizes.
    kernel: what computes it without a cache, see attention.causal.
  """

  config: gemma3_config.Gemma3Config
  kernel: str

  @nn.compact
  def __call__(self, x, angles, seen, cache, slots):
    """Attends to what queries see.

    Args:
      x: [B, L, D].
      angles: [B, L, H / 2], see rotary_angles.
      seen: without a cache, an attention_mask.Sight; with one, bool [B, L, M],
        True where a query sees a key.
      cache: None, or (key, value), each [B, M, G, H], to write to and read.
      slots: None, or int32 [B, L], where in the cache each position goes.

    Returns:
      [B, L, D], the updated cache, and this row's (query, key, value) as
      attention reads them: [B, L, N, H], [B, L, G, H] and [B, L, G, H].
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
      return RMSNorm(c.norm_epsilon, 'head_width', name=name)

    def project(w, axis):
      projected = matmul.project(x, w)
      if cache is None:
        return projected
      return rules.constrain(projected, ('batch', None, axis, None))

    query = rotate(norm('query_norm')(project(w_query, 'heads')), angles)
    key = rotate(norm('key_norm')(project(w_key, 'kv_heads')), angles)
    value = project(w_value, 'kv_heads')
    heads = (query, key, value)
    scale = c.query_scale**-0.5
    if cache is None:
      attended = attention.causal(query, key, value, seen, scale, self.kernel)
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
    return matmul.project(attended, w_out), cache, heads


_WIDE, _NARROW, _NORM = ('embed', 'mlp'), ('mlp', 'embed'), ('norm',)


class MLP(nn.Module):
  """GeGLU with the tanh approximation of GELU; see _mlp_block."""

  config: gemma3_config.Gemma3Config

  @nn.compact
  def weights(self) -> tuple[Array, Array, Array]:
    """Its parameters: gate [D, F], up [D, F] and down [F, D]."""
    d, f = self.config.embed_dim, self.config.mlp_dim
    return (
      _parameter(self, 'gate', _fan_in(0, 1), (d, f), _WIDE),
      _parameter(self, 'up', _fan_in(0, 1), (d, f), _WIDE),
      _parameter(self, 'down', _fan_in(0, 1), (f, d), _NARROW),
    )


def _mlp_block(epsilon, axes, x, before, gate, up, down, after):
  """Returns [B, L, D], x plus the MLP's output; `axes` are those of x."""
  y = rms_norm(x, before, epsilon)
  hidden = nn.gelu(matmul.project(y, gate), approximate=True)
  hidden = hidden * matmul.project(y, up)
  hidden = rules.constrain(hidden, (*axes[:2], 'mlp'))
  return x + rms_norm(matmul.project(hidden, down), after, epsilon)


class Layer(nn.Module):
  """One transformer block: norms before and after attention and MLP.

  Attributes:
    config: the model's sizes.
    shows_heads: whether it returns what its attention reads.
    kernel: see Attention.
  """

  config: gemma3_config.Gemma3Config
  shows_heads: bool
  kernel: str

  @nn.compact
  def __call__(self, x, angles, seen, cache, slots):
    """Maps x [B, L, D] and this layer's cache; see Attention.

    Returns:
      [B, L, D], the updated cache, and (query, key, value) or None.
    """
    # What lies before has no name of its own: this is what can be saved
    # elsewhere than on the device.
    x = ad_checkpoint.checkpoint_name(x, LAYER_INPUT)
    axes = _BY_ROW if cache is None else DECODING_AXES

    def norm(name):
      return RMSNorm(self.config.norm_epsilon, 'norm', name=name)

    attended, cache, heads = Attention(
      self.config, self.kernel, name='attention'
    )(norm('pre_attention_norm')(x), angles, seen, cache, slots)
    x = x + norm('post_attention_norm')(attended)
    d = self.config.embed_dim
    # As one function of positions: it is all that a long row's gradient makes
    # once more.
    x = matmul.by_position(
      functools.partial(_mlp_block, self.config.norm_epsilon, axes),
      x,
      (
        norm('pre_mlp_norm').scale(d),
        *MLP(self.config, name='mlp').weights(),
        norm('post_mlp_norm').scale(d),
      ),
      (_NORM, _WIDE, _WIDE, _NARROW, _NORM),
    )
    x = rules.constrain(x, axes)
    return x, cache, heads if self.shows_heads else None
