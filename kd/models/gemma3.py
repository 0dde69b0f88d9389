"""Gemma 3, text: embedding, scanned layers, final norm.

The model ends at its final hidden states: logits are their product with the
embedding, and whoever needs them (losses, sampling) makes that product in the
shape that suits it, since [B, L, V] does not fit anywhere.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import attention
from kd.models import attention_mask
from kd.models import gemma3_config
from kd.models import layers
from kd.models import taps
from kd.partitioning import rules

Array = types.Array
_NOTHING = types.TapSpec((), ())

# Names of `student.remat`: what is saved of each layer for the backward pass:
# everything; its input; that and products with weights; its input, in the
# host's memory; its input, and in the host's memory products with weights.
REMAT_POLICIES = {
  'none': None,
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'block_offload': (
    jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[layers.LAYER_INPUT],
      offload_src='device',
      offload_dst='pinned_host',
    )
  ),
  'dots_offload': (
    jax.checkpoint_policies.offload_dot_with_no_batch_dims(
      'device', 'pinned_host'
    )
  ),
}


def _lookup(embedding, tokens):
  """Rows of the embedding for tokens [B, L]: [B, L, D].

  The table lies split by vocabulary. Each device takes all ids of its columns
  instead of all columns of its ids: columns of the table and of what was looked
  up are exchanged, and no device ever holds the whole table.
  """
  table = rules.constrain(embedding, (None, 'lookup_width'))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = rules.constrain(table[tokens], ('gathered_batch', None, 'lookup_width'))
  # One exchange for each axis of the mesh: the compiler gathers all of it
  # where it is to make two at a time.
  return rules.constrain(x, ('gathered_batch', 'length', 'looked_up_width'))


def embed(embedding: Array, tokens: Array, dtype: jnp.dtype) -> Array:
  """Returns the first layer's input [B, L, D] for tokens [B, L]."""
  scale = _scale(embedding, dtype)
  x = _lookup(embedding, tokens).astype(dtype) * scale
  return rules.constrain(x, ('batch', 'length', None))


def embed_few(embedding: Array, tokens: Array, dtype: jnp.dtype) -> Array:
  """As `embed`, for so few tokens that their sum over devices costs nothing.

  The table stays split by vocabulary: each device looks up the tokens of its
  part, and the parts are summed.
  """
  table = rules.constrain(embedding, ('vocab', None))
  tokens = rules.constrain(tokens, ('gathered_batch', None))
  x = rules.constrain(table[tokens], ('gathered_batch', None, None))
  return x.astype(dtype) * _scale(embedding, dtype)


def _scale(embedding, dtype):
  # As published: the scale is rounded to the activations' type, so that it is
  # 34.0 for D = 1152 in bfloat16 and 33.94 in float32.
  return jnp.asarray(embedding.shape[1] ** 0.5, dtype)


class _Layers(nn.Module):
  """A few layers in a row, each with its kind: one period, or what is left.

  Layers are numbered by their place here, in `tapped` too.
  """

  config: gemma3_config.Gemma3Config
  kinds: tuple[str, ...]
  remat: str
  tapped: types.TapSpec
  kernel: str

  @nn.compact
  def __call__(self, x, angles, seen):
    layer = layers.Layer
    if self.remat != 'none':
      layer = nn.remat(layer, policy=REMAT_POLICIES[self.remat])
    hidden, heads = {}, {}
    for i, kind in enumerate(self.kinds):
      shows = i in self.tapped.attention
      x, _, read = layer(self.config, shows, self.kernel, name=f'layer_{i}')(
        x, angles[kind], seen[kind], None, None
      )
      if i in self.tapped.hidden:
        hidden[i] = (x,)
      if shows:
        heads[i] = read
    return x, (hidden, heads)


class Gemma3(nn.Module):
  """The transformer.

  Attributes:
    config: its sizes.
    dtype: the type of activations; parameters may have another.
    remat: a name of REMAT_POLICIES.
    kernel: what computes attention within rows, see attention.causal; 'xla'
      runs anywhere.
  """

  config: gemma3_config.Gemma3Config
  dtype: jnp.dtype
  remat: str
  kernel: str = attention.XLA

  def __call__(self, tokens, positions, segment_ids):
    """Runs the transformer.

    Args:
      tokens: int32 [B, L].
      positions: int32 [B, L], from 0 in each segment.
      segment_ids: int32 [B, L]; attention stays within equal ids, 0 is padding.

    Returns:
      [B, L, D], hidden states after the final norm, and Taps of nothing.
    """
    return self.run(tokens, positions, segment_ids, _NOTHING)

  @nn.compact
  def run(self, tokens, positions, segment_ids, spec):
    """As __call__, and returns the Taps of `spec` too."""
    c = self.config
    embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        nn.initializers.normal(c.embed_dim**-0.5), ('vocab', 'table_width')
      ),
      (c.vocab_size, c.embed_dim),
      jnp.float32,
    )
    x = embed(embedding, tokens, self.dtype)
    places = attention_mask.Positions(positions, segment_ids)
    seen = {
      gemma3_config.LOCAL: attention_mask.AttentionMask(places, c.window),
      gemma3_config.GLOBAL: attention_mask.AttentionMask(places, None),
    }
    angles = layers.angles(c, positions)
    with jax.named_scope(layers.TRANSFORMER_LAYERS):
      x, shown = self._run_layers(x, angles, seen, spec)
    x = layers.RMSNorm(c.norm_epsilon, 'norm', name='final_norm')(x)
    return x, shown

  def _run_layers(self, x, angles, seen, spec):
    c, p, groups = self.config, self.config.scan_period, self.config.scan_groups
    rest = range(groups * p, c.num_layers)
    scanned = nn.scan(
      _Layers,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=groups,
      metadata_params={nn.PARTITION_NAME: 'layers'},
      # The check traces every layer once more, and so takes random keys.
      check_constancy_invariants=self.is_initializing(),
    )(
      c,
      c.layer_kinds[:p],
      self.remat,
      spec.places(range(groups * p), p),
      self.kernel,
      name='pattern',
    )
    x, shown = scanned(x, angles, seen)
    shown_rest = ({}, {})
    if rest:
      x, shown_rest = _Layers(
        c,
        c.layer_kinds[rest.start :],
        self.remat,
        spec.places(rest, len(rest)),
        self.kernel,
        name='remainder',
      )(x, angles, seen)
    return x, taps.collect(spec, shown, shown_rest, groups, p)


def build(
  config: gemma3_config.Gemma3Config, dtype: str, remat: str, path: str
) -> Gemma3:
  """Checks `dtype` and `remat` and builds the module.

  Args:
    config: the sizes.
    dtype: 'float32' or 'bfloat16'.
    remat: a name of REMAT_POLICIES.
    path: the config path of the model ('student'), for messages.

  Raises:
    ConfigError: one of the names is not legal.
  """
  if dtype == 'float16':
    raise errors.ConfigError(
      f'{path}.dtype',
      "found 'float16': Gemma 3's activations exceed its largest value",
      legal='float32, bfloat16',
      nearest='bfloat16',
    )
  if dtype not in ('float32', 'bfloat16'):
    raise errors.unknown(
      f'{path}.dtype', 'type', dtype, ('float32', 'bfloat16')
    )
  if remat not in REMAT_POLICIES:
    raise errors.unknown(f'{path}.remat', 'policy', remat, list(REMAT_POLICIES))
  return Gemma3(config, jnp.dtype(dtype), remat)


def forward(
  model: Gemma3, params: types.PyTree, batch: types.Batch, spec: types.TapSpec
) -> tuple[Array, types.Taps]:
  """Runs whole rows, and shows what chosen layers hold.

  Args:
    model: the module.
    params: its parameters.
    batch: rows of [B, L].
    spec: the layers; static.

  Returns:
    [B, L, D], hidden states after the final norm, and the Taps in spec's order.

  Raises:
    ValueError: spec names a layer that the model does not have.
  """
  spec.check(model.config.num_layers)
  return model.apply(
    {'params': params},
    batch.tokens,
    batch.positions,
    batch.segment_ids,
    spec,
    method='run',
  )


@functools.lru_cache(maxsize=32)  # Tracing takes a second or more.
def abstract_params(model: Gemma3) -> types.PyTree:
  """Shapes, and logical axis names, of the parameters; computes nothing.

  Returns:
    A tree of nn.LogicallyPartitioned boxes over jax.ShapeDtypeStruct.
  """
  shape = jax.ShapeDtypeStruct((1, 1), np.int32)
  return jax.eval_shape(model.init, jax.random.key(0), shape, shape, shape)[
    'params'
  ]


def logical_axes(model: Gemma3) -> types.PyTree:
  """The PartitionSpec of logical axis names of each parameter."""
  return nn.get_partition_spec(abstract_params(model))


def unbox(tree: types.PyTree) -> types.PyTree:
  """Drops the boxes of logical axis names."""
  return nn.unbox(tree)


def init_params(model: Gemma3, rng: Array) -> types.PyTree:
  """Random float32 parameters, without partitioning boxes."""
  one = jnp.ones((1, 1), jnp.int32)
  return nn.unbox(model.init(rng, one, one, one)['params'])
