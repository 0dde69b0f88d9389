"""A decoder-only transformer: embedding, stack of layers, final norm.

It implements family.Model, except for differences between families, which
subclasses define. The model ends at its final hidden states. Logits are their
product with the output embedding, which losses and sampling compute in pieces,
since [B, L, V] does not fit in memory.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from kd.core import attention_mask
from kd.core import errors
from kd.core import types
from kd.models import computed
from kd.models import decoding
from kd.models import embedding as embedding_lib
from kd.models import family
from kd.models import layer_stack
from kd.models import layers
from kd.models import tensors as tensors_lib
from kd.models.attention import attention
from kd.models.vision import vision as vision_lib
from kd.partitioning import rules

Array = types.Array

REMAT_POLICIES = layer_stack.REMAT_POLICIES
_NO_TAPS = types.TapSpec((), ())
_TABLE_AXES = ('vocab', 'table_width')


class Transformer(nn.Module):
  """The transformer; see family.Model.

  A subclass defines `layer_type`, `norm_offset` and `angles`, and
  `embedding_scale` if it has one.

  Attributes:
    config: its sizes.
    dtype: data type of activations; parameters may have another.
    remat: a name of REMAT_POLICIES.
    kernel: kernel of attention within rows, see attention.causal; 'xla' runs
      anywhere.
    round_inputs: rounding of the inputs of products with layers' weights.
    pipeline_micro_batches: see pipeline.micro_batches.
  """

  config: family.Config
  dtype: jnp.dtype
  remat: str
  kernel: str = attention.XLA
  round_inputs: layers.RoundInputs = layers.unrounded
  pipeline_micro_batches: int = 0

  # The module of a layer, a decoder_layer.DecoderLayer.
  layer_type = None
  # Added to a norm's parameter to get its multiplier.
  norm_offset = None

  @nn.nowrap
  def angles(self, positions: Array) -> dict[str, Array]:
    """Returns rotary angles [B, L, H / 2] by kind, for positions [B, L]."""
    raise NotImplementedError

  @property
  def embedding_scale(self) -> float | None:
    """The multiplier of input embeddings; None without scaling."""
    return None

  @nn.compact
  def __call__(
    self,
    tokens,
    positions,
    segment_ids,
    spec=_NO_TAPS,
    layer_weights=None,
    images=None,
  ):
    """Runs the transformer.

    Args:
      tokens: int32 [B, L].
      positions: int32 [B, L], from 0 in each segment.
      segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.
      spec: see `forward`.
      layer_weights: see `forward`.
      images: types.Images, or None.

    Returns:
      See `forward`.
    """
    c = self.config
    table = self._table('embedding')
    if not c.tied:
      self._table('head')
    image_ids, image_tokens = None, 0
    if images is not None:
      image_tokens = c.vision.soft_tokens
      image_ids = images.ids(image_tokens)
      # The id of image tokens may have no row in the table.
      tokens = jnp.where(image_ids > 0, 0, tokens)
    x = embedding_lib.embed(table, tokens, self.dtype, self.embedding_scale)
    if images is not None:
      seen = self._vision()(images, spec.tower)
      x = vision_lib.placed(x, seen.soft_tokens, images.index)
      x = rules.constrain(x, layers.BY_ROW_AXES)
    where = attention_mask.Positions(positions, segment_ids, image_ids)
    masks = {
      kind: attention_mask.AttentionMask(where, c.window_of(kind), image_tokens)
      for kind in dict.fromkeys(c.layer_kinds)
    }
    angles = self.angles(positions)
    with jax.named_scope(layers.TRANSFORMER_LAYERS):
      x, shown = layer_stack.run(self, x, angles, masks, spec, layer_weights)
    if images is not None:
      shown = shown.replace(**vision_lib.tapped(seen, images.index, spec))
    norm = layers.RMSNorm(
      c.norm_epsilon, 'norm', self.norm_offset, name='final_norm'
    )
    return norm(x), shown

  def _vision(self):
    c = self.config
    return vision_lib.Vision(
      c.vision,
      c.embed_dim,
      self.norm_offset,
      self.dtype,
      self.remat,
      name='vision',
    )

  def _table(self, name):
    c = self.config
    return self.param(
      name,
      nn.with_logical_partitioning(
        nn.initializers.normal(c.embed_dim**-0.5), _TABLE_AXES
      ),
      (c.vocab_size, c.embed_dim),
      jnp.float32,
    )

  @nn.nowrap
  def forward(
    self,
    params: types.PyTree,
    batch: types.Batch,
    spec: types.TapSpec,
    layer_weights: Array | None = None,
  ) -> tuple[Array, types.Taps]:
    """Runs whole rows; see family.Model.

    Raises:
      ValueError: spec names a layer that the model does not have.
    """
    vision = self.config.vision
    spec.check(self.config.num_layers, vision.num_layers if vision else 0)
    return self.apply(
      {'params': params},
      batch.tokens,
      batch.positions,
      batch.segment_ids,
      spec,
      layer_weights,
      batch.images,
    )

  @nn.nowrap
  def unembedding(self, params: types.PyTree) -> Array:
    """Returns the output embedding [V, D]; see family.Model."""
    return computed.value(params['embedding' if self.config.tied else 'head'])

  @nn.nowrap
  def init_params(self, rng: Array) -> types.PyTree:
    """Returns random float32 parameters, without partitioning boxes."""
    return nn.unbox(_init(self, rng))

  @nn.nowrap
  def abstract_params(self) -> types.PyTree:
    """Returns the shape and type of each parameter; see family.Model."""
    return nn.unbox(_boxed(self))

  @nn.nowrap
  def logical_axes(self) -> types.PyTree:
    """Returns logical axis names; see family.Model."""
    return nn.get_partition_spec(_boxed(self))

  @nn.nowrap
  def is_frozen(self, path: str) -> bool:
    """Returns False: all parameters may be trained; see family.Model."""
    del path
    return False

  @property
  def representation(self) -> dict[str, Any]:
    """Returns the rounding of inputs, if any; see family.Model."""
    if self.round_inputs is layers.unrounded:
      return {}
    return {'round_inputs': str(self.round_inputs)}

  @property
  def core(self) -> 'Transformer':
    """Returns itself; see family.Model."""
    return self

  @nn.nowrap
  def bind(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters themselves; see family.Model."""
    return params

  @nn.nowrap
  def from_plain(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters themselves; see family.Model."""
    del rng
    return params

  @nn.nowrap
  def with_dropout(self, params: types.PyTree, rng: Array) -> types.PyTree:
    """Returns the parameters themselves; see family.Model."""
    del rng
    return params

  @nn.nowrap
  def plain_params(self, params: types.PyTree) -> types.PyTree:
    """Returns the parameters themselves; see family.Model."""
    return params

  @nn.nowrap
  def decoding_weights(self, params: types.PyTree) -> decoding.Weights:
    """Returns the parameters for decoding; see family.Model."""
    return decoding.weights(self, params)

  @nn.nowrap
  def empty_cache(self, batch: int, slots: int) -> decoding.Cache:
    """Returns an empty KV cache; see family.Model."""
    return decoding.empty(self, batch, slots)

  @nn.nowrap
  def prefill(
    self,
    params: types.PyTree,
    tokens: Array,
    lengths: Array,
    images: types.Images | None = None,
  ) -> tuple[Array, decoding.Cache]:
    """Computes hidden states and cache of prompts; see family.Model."""
    return decoding.prefill(self, params, tokens, lengths, images)

  @nn.nowrap
  def extend(
    self,
    held: decoding.Weights,
    cache: decoding.Cache,
    ids: Array,
    positions: Array,
  ) -> tuple[Array, decoding.Cache]:
    """Computes hidden states of the next tokens; see family.Model."""
    return decoding.extend(self, held, cache, ids, positions)


def _init(model, rng):
  one = jnp.ones((1, 1), jnp.int32)
  images = None
  if model.config.vision:
    size = model.config.vision.image_size
    images = types.Images(
      jnp.zeros((1, 1, size, size, 3), jnp.uint8), jnp.full((1, 1), -1)
    )
  return model.init(rng, one, one, one, images=images)['params']


@functools.lru_cache(maxsize=32)  # Tracing takes a second or more.
def _boxed(model):
  """Returns boxes of logical axis names over jax.ShapeDtypeStruct."""
  return jax.eval_shape(lambda: _init(model, jax.random.key(0)))


def check_build(dtype: str, remat: str, path: str) -> jnp.dtype:
  """Checks the arguments of families.build.

  Args:
    dtype: 'float32' or 'bfloat16'.
    remat: a name of REMAT_POLICIES.
    path: the config path of the model ('student'), for messages.

  Returns:
    The data type.

  Raises:
    ConfigError: one of the names is not legal.
  """
  if dtype == 'float16':
    raise errors.ConfigError(
      f'{path}.dtype',
      "found 'float16': activations exceed its largest value",
      legal='float32, bfloat16',
      nearest='bfloat16',
    )
  if dtype not in ('float32', 'bfloat16'):
    raise errors.unknown(
      f'{path}.dtype', 'type', dtype, ('float32', 'bfloat16')
    )
  if remat not in REMAT_POLICIES:
    raise errors.unknown(f'{path}.remat', 'policy', remat, list(REMAT_POLICIES))
  return jnp.dtype(dtype)


def tensors(
  config: family.Config,
  top: Sequence[tensors_lib.Entry],
  layer: Sequence[tensors_lib.Entry],
) -> list[tensors_lib.Tensor]:
  """Returns every tensor of a model, starting with those outside of layers.

  Args:
    config: the model.
    top: entries that belong to no layer.
    layer: entries of each layer.
  """
  c = config
  sizes = {
    'V': c.vocab_size,
    'D': c.embed_dim,
    'F': c.mlp_dim,
    'H': c.head_dim,
    'N': c.num_heads,
    'G': c.num_kv_heads,
  }
  locations = [layer_stack.location(c, i) for i in range(c.num_layers)]
  return tensors_lib.of_model(top, layer, sizes, locations)
