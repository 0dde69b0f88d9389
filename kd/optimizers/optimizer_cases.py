"""A small model whose parameters the optimizer tests train."""

import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.optimizers import parameter_groups

# Six layers with a period of three, then one more layer.
SIZES = gemma3_config.Gemma3Config(
  embed_dim=16,
  mlp_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=48,
  layer_kinds=('local', 'local', 'global') * 2 + ('local',),
  window=4,
  context=64,
  query_scale=8.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
SHAPES = (
  families.build(SIZES, 'float32', 'none', '').abstract_params(),
  {'hidden': {'projection': {'kernel': jax.ShapeDtypeStruct((1, 2, 2), 'f4')}}},
)


def groups(
  is_frozen=lambda path: False, layer_decay=1.0, **entries
) -> parameter_groups.ParameterGroups:
  """Returns groups of base.parameter_group entries for a run of 10 steps."""
  built = parameter_groups.build(
    {name: entry.to_dict() for name, entry in entries.items()},
    'optimizer.groups',
    10,
  )
  return parameter_groups.ParameterGroups(SIZES, built, layer_decay, is_frozen)


def random(rng: np.random.Generator) -> types.PyTree:
  """Returns random float32 values for all parameters."""
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), SHAPES
  )


def by_path(tree: types.PyTree) -> dict[str, np.ndarray]:
  """Returns the values of a tree like SHAPES by path, one per layer."""
  parts = {}
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    names = groups().names(path)
    is_stack = len(names) > 1 and np.ndim(x)
    each = np.asarray(x) if is_stack else [np.asarray(x)] * len(names)
    parts |= zip(names, each, strict=True)
  return parts
