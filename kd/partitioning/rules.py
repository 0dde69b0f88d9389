"""From logical axis names, which models use, to mesh axes."""

from collections.abc import Sequence
import contextlib

from flax.core import spmd
import jax

from kd.core import errors
from kd.core import types

BATCH_AXES = ('data', 'fsdp')

# Logical axis to mesh axis; a name that is not here is replicated.
RULES = (
  ('batch', BATCH_AXES),
  ('vocab', 'tensor'),
  ('heads', 'tensor'),
  ('kv_heads', 'tensor'),
  ('mlp', 'tensor'),
  ('embed', 'fsdp'),
)
_BY_NAME = dict(RULES)


def spec(names: Sequence[str | None]) -> jax.sharding.PartitionSpec:
  """The PartitionSpec of an array whose axes have these logical names."""
  return jax.sharding.PartitionSpec(*(_BY_NAME.get(n) for n in names))


def _axis_size(mesh, axes):
  if axes is None:
    return 1
  axes = (axes,) if isinstance(axes, str) else axes
  size = 1
  for axis in axes:
    size *= mesh.shape[axis]
  return size


def param_shardings(
  mesh: jax.sharding.Mesh,
  logical: types.PyTree,
  shapes: types.PyTree,
  path: str,
) -> types.PyTree:
  """Where each parameter lies.

  Key and value heads are replicated where there are fewer of them than tensor
  devices; any other axis must be divided evenly.

  Args:
    mesh: the mesh.
    logical: a tree of PartitionSpecs of logical names.
    shapes: the same tree of objects with `shape`.
    path: the model's config path ('student'), for the message.

  Returns:
    The tree of NamedShardings.

  Raises:
    ConfigError: an axis is not divisible by its mesh axes.
  """

  def place(key_path, names, leaf):
    axes = []
    for name, size in zip(names, leaf.shape, strict=True):
      axis = _BY_NAME.get(name)
      parts = _axis_size(mesh, axis)
      if name == 'kv_heads' and size % parts:
        axis, parts = None, 1
      if size % parts:
        where = jax.tree_util.keystr(key_path, simple=True, separator='/')
        raise errors.ConfigError(
          f'mesh.{axis}',
          f'{parts} devices do not divide the {size} {name} of {path} '
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
  """Rows are split over the data and fsdp axes."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(BATCH_AXES)
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def row_parts(mesh: jax.sharding.Mesh) -> int:
  """Into how many parts a batch's rows are split."""
  return _axis_size(mesh, BATCH_AXES)


@contextlib.contextmanager
def active(mesh: jax.sharding.Mesh):
  """Within it, logical constraints of models and losses mean this mesh."""
  with jax.set_mesh(mesh), spmd.logical_axis_rules(RULES):
    yield


def constrain(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
  """Asks the compiler to lay x out by logical names; nothing outside active."""
  if not spmd.get_logical_axis_rules():
    return x
  return jax.lax.with_sharding_constraint(x, spec(names))
