"""Maps logical axis names, which models use, to mesh axes."""

from collections.abc import Callable, Sequence
import contextlib
import functools

from flax.core import spmd
import jax

from kd.core import errors
from kd.core import types

PIPELINE = 'pipeline'
_STAGE_ROWS = ('data', 'fsdp')
BATCH_AXES = (PIPELINE, *_STAGE_ROWS)

# Logical axis to mesh axes; names that are not listed are replicated. For the
# logits, rows are gathered over fsdp and the vocabulary stays split over it.
# Parameters are split over sequence as they are over fsdp. The pipeline axis
# splits the scanned layers, and rows outside of them.
RULES = (
  ('layer_periods', PIPELINE),
  ('micro_batches', PIPELINE),
  ('micro_batch', _STAGE_ROWS),
  ('batch', BATCH_AXES),
  ('gathered_batch', (PIPELINE, 'data')),
  ('prompt_slots', BATCH_AXES),
  ('length', 'sequence'),
  ('vocab', ('fsdp', 'tensor', 'sequence')),
  ('lookup_width', ('fsdp', 'tensor', 'sequence')),
  ('looked_up_width', ('fsdp', 'tensor')),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  ('mlp', 'tensor'),
  ('embed', ('fsdp', 'sequence')),
)
_BY_NAME = dict(RULES)
# Replicated if the mesh axes do not divide them. Other axes must be divisible.
_REPLICABLE = (
  'layer_periods',
  'kv_heads',
  'vocab',
  'lookup_width',
  'looked_up_width',
  'gathered_batch',
  'prompt_slots',
  'length',
)


def _axis_size(mesh, axes):
  if axes is None:
    return 1
  axes = (axes,) if isinstance(axes, str) else axes
  size = 1
  for axis in axes:
    size *= mesh.shape[axis]
  return size


def _mesh_axes(mesh, name):
  """Returns the mesh axes over which XLA splits a logical axis.

  Within a stage, arrays are local to the stage, so its axis is left out.
  """
  axes, manual = _BY_NAME.get(name), mesh.manual_axes
  if axes is None or not manual:
    return axes
  axes = (axes,) if isinstance(axes, str) else axes
  return tuple(axis for axis in axes if axis not in manual) or None


def _longest(mesh, axes):
  """Returns the mesh axis with the most devices."""
  axes = (axes,) if isinstance(axes, str) else axes
  return max(axes, key=lambda axis: mesh.shape[axis])


def param_shardings(
  mesh: jax.sharding.Mesh,
  logical: types.PyTree,
  shapes: types.PyTree,
  path: str,
) -> types.PyTree:
  """Returns the sharding of each parameter.

  Periods of layers, KV heads and the vocabulary are replicated if their mesh
  axes do not divide them. Any other axis must be divided evenly.

  Args:
    mesh: the mesh.
    logical: a tree of PartitionSpecs of logical names.
    shapes: the same tree of objects with `shape`.
    path: the model's config path ('student'), for messages.

  Returns:
    The tree of NamedShardings.

  Raises:
    ConfigError: an axis is not divisible by its mesh axes.
  """

  def place(key_path, names, leaf):
    axes = []
    for name, size in zip(names, leaf.shape, strict=True):
      axis = _BY_NAME.get(name)
      shards = _axis_size(mesh, axis)
      if name in _REPLICABLE and size % shards:
        axis, shards = None, 1
      if size % shards:
        where = jax.tree_util.keystr(key_path, simple=True, separator='/')
        raise errors.ConfigError(
          f'mesh.{_longest(mesh, axis)}',
          f'{shards} devices do not divide the {size} {name} of {path} '
          f'({where})',
          legal=f'a divisor of {size}',
        )
      axes.append(axis)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(
    place,
    logical,
    shapes,
    is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
  )


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of a batch: rows over pipeline, data and fsdp."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(BATCH_AXES)
  )


def hidden_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of hidden states [B, L, D]: by row and position."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(BATCH_AXES, _BY_NAME['length'])
  )


def taps_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Returns the sharding of a teacher's taps [n, B, L, ...]."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, BATCH_AXES, _BY_NAME['length'])
  )


def table_sharding(
  mesh: jax.sharding.Mesh, vocab_size: int
) -> jax.sharding.NamedSharding:
  """Returns the sharding of an embedding [V, D]: by vocabulary, if possible."""
  axes = _BY_NAME['vocab']
  if vocab_size % _axis_size(mesh, axes):
    axes = None
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axes))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def row_shards(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of shards of a batch's rows."""
  return _axis_size(mesh, BATCH_AXES)


def active_stages() -> int:
  """Returns the number of pipeline stages; 1 without an active mesh."""
  return shards('micro_batches', 0)


def map_stages(
  function: Callable[..., types.PyTree], ins: types.PyTree, outs: types.PyTree
) -> Callable[..., types.PyTree]:
  """Maps a function over the stages of the pipeline.

  Args:
    function: takes and returns the shards of one stage; XLA splits these over
      the other mesh axes as usual.
    ins: for each argument, whether its first axis is split over the stages;
      otherwise it is replicated.
    outs: the same for each result.
  """
  spec = lambda split: jax.sharding.PartitionSpec(PIPELINE if split else None)
  return jax.shard_map(
    function,
    in_specs=jax.tree.map(spec, ins),
    out_specs=jax.tree.map(spec, outs),
    axis_names={PIPELINE},
    check_vma=False,
  )


def stage_row_shards(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of shards of a micro-batch's rows."""
  return _axis_size(mesh, _STAGE_ROWS)


def length_shards(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of shards of each row's positions."""
  return _axis_size(mesh, _BY_NAME.get('length'))


@contextlib.contextmanager
def active(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh):
  """Makes a mesh active: logical constraints in the block refer to it."""
  use = jax.set_mesh
  if isinstance(mesh, jax.sharding.AbstractMesh):  # A plan by formula.
    use = jax.sharding.use_abstract_mesh
  with use(mesh), spmd.logical_axis_rules(RULES):
    yield


def shards(name: str, size: int) -> int:
  """Returns the number of shards of a logical axis of this size.

  1 without an active mesh, and if `constrain` would replicate the axis.
  """
  if not spmd.get_logical_axis_rules():
    return 1
  mesh = jax.sharding.get_abstract_mesh()
  count = _axis_size(mesh, _mesh_axes(mesh, name))
  return 1 if name in _REPLICABLE and size % count else count


def map_shards(
  function: Callable[..., types.PyTree], ins: types.PyTree, outs: types.PyTree
) -> Callable[..., types.PyTree]:
  """Maps a function over the devices' shards of its arguments.

  Args:
    function: takes and returns shards; it is returned unchanged without an
      active mesh.
    ins: for each argument a tree of PartitionSpecs of logical names, which must
      divide it evenly. Axes without a name are replicated.
    outs: the same for each result.
  """
  if not spmd.get_logical_axis_rules():
    return function

  mesh_axes = functools.partial(_mesh_axes, jax.sharding.get_abstract_mesh())

  def places(tree):
    return jax.tree.map(
      lambda names: jax.sharding.PartitionSpec(*map(mesh_axes, names)),
      tree,
      is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )

  return jax.shard_map(
    function, in_specs=places(ins), out_specs=places(outs), check_vma=False
  )


def constrain(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
  """Constrains the sharding of x by logical names; no-op without a mesh."""
  if not spmd.get_logical_axis_rules():
    return x
  mesh = jax.sharding.get_abstract_mesh()
  axes = []
  for name, size in zip(names, x.shape, strict=True):
    axis = _mesh_axes(mesh, name)
    divided = size % _axis_size(mesh, axis) == 0
    axes.append(axis if divided or name not in _REPLICABLE else None)
  return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(*axes))
