"""Parameter groups: trained parameters, their learning rates and weight decays.

Parameters are named by user-facing paths such as layers.3.mlp.gate, one for
each layer, although several layers are stacked in one array.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd.core import errors
from kd.core import schedules
from kd.core import types
from kd.models import family
from kd.models import layer_stack

Array = types.Array
# JAX keys of a leaf of (parameters, projections of terms).
KeyPath = tuple[Any, ...]

_OPTIMIZERS_OWN = -1.0  # A group's weight_decay that selects the optimizer's.
_TERMS = jax.tree_util.SequenceKey(1)


@dataclasses.dataclass(frozen=True)
class Group:
  """Settings of the parameters whose paths match a regular expression.

  Attributes:
    name: name of its entry in the config.
    match: regular expression of a path, or of its beginning up to a dot.
    rate: factor on the learning rate, by update.
    weight_decay: weight decay of its matrices; None for the optimizer's.
    first_step: number of updates before the first that changes its parameters.
    frozen: whether its parameters are not trained.
  """

  name: str
  match: str
  rate: schedules.Schedule
  weight_decay: float | None
  first_step: int
  frozen: bool

  def factor(self, step: Array) -> float | Array:
    """Returns the factor on the learning rate; 0 before `first_step`."""
    rate = self.rate(step)
    if self.first_step:
      rate = jnp.where(step >= self.first_step, rate, 0.0)
    return rate

  def matches(self, path: str) -> bool:
    """Returns whether the group's expression matches a parameter's path."""
    return layer_stack.matches(self.match, path)


def _frozen_nowhere(path: str) -> bool:
  del path
  return False


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
  """The groups of a student's parameters.

  Trees here are pairs (the student's parameters, projections of loss terms). A
  tree of trained parameters has None in place of the frozen ones.

  Attributes:
    sizes: config of the student; None if there are no groups and no predicate.
    groups: the groups; a parameter belongs to the first that matches its path.
    layer_decay: factor on the learning rate of a layer for each layer above
      it, and on that of the input embedding for every layer.
    is_frozen: whether the parameter of a path is frozen, whatever its group.
  """

  sizes: family.Config | None = None
  groups: tuple[Group, ...] = ()
  layer_decay: float = 1.0
  is_frozen: Callable[[str], bool] = _frozen_nowhere

  def split(self, tree: types.PyTree) -> tuple[types.PyTree, types.PyTree]:
    """Returns the trained and the frozen parameters.

    An array of several layers is frozen if all of its layers are.
    """

    def pick(frozen):
      return jax.tree_util.tree_map_with_path(
        lambda path, x: x if self._is_frozen(path) == frozen else None, tree
      )

    return pick(False), pick(True)

  def factors(self, trained: types.PyTree, step: Array) -> types.PyTree | None:
    """Returns factors on the learning rate; None if all are always 1.

    Args:
      trained: the trained parameters.
      step: int32 [], number of updates so far.

    Returns:
      For each parameter a float, or an array that broadcasts to it; 0 for
      frozen layers.
    """
    rates = self._rates(step)

    def factor(path, x):
      values = [self._factor(name, rates) for name in self.names(path)]
      return _by_layer(values, x.ndim)

    tree = jax.tree_util.tree_map_with_path(factor, trained)
    leaves = jax.tree.leaves(tree)
    return None if all(_is_one(leaf) for leaf in leaves) else tree

  def weight_decays(
    self, trained: types.PyTree, weight_decay: float
  ) -> types.PyTree:
    """Returns the weight decay of each parameter; 0 for norms and biases.

    Args:
      trained: the trained parameters.
      weight_decay: the optimizer's weight decay.

    Returns:
      For each parameter a float, or an array that broadcasts to it.
    """

    def decay(path, x):
      if _is_vector(path):
        return 0.0
      groups = [self._group(name) for name in self.names(path)]
      values = [
        weight_decay if g is None or g.weight_decay is None else g.weight_decay
        for g in groups
      ]
      return _by_layer(values, x.ndim)

    return jax.tree_util.tree_map_with_path(decay, trained)

  def scalars(self, step: Array) -> dict[str, Array]:
    """Returns the factor of each trained group, for the metrics."""
    return {
      f'lr_factor/{name}': jnp.asarray(rate, jnp.float32)
      for name, rate in self._rates(step).items()
    }

  def count(self, tree: types.PyTree) -> tuple[int, int]:
    """Returns the numbers of trained parameters and of all parameters.

    Args:
      tree: the parameters, or their shapes.
    """
    trained = total = 0
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
      frozen = [self._is_frozen_at(name) for name in self.names(path)]
      trained += x.size // len(frozen) * frozen.count(False)
      total += x.size
    return trained, total

  def check(self, tree: types.PyTree) -> None:
    """Raises ConfigError if a group is empty, or nothing is trained.

    Args:
      tree: the parameters, or their shapes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [name for path, _ in leaves for name in self.names(path)]
    for group in self.groups:
      _check_group(group, names, self._group)
    if not jax.tree.leaves(self.split(tree)[0]):
      raise errors.ConfigError(
        'optimizer.groups',
        'all parameters are frozen',
        legal='groups that leave some to train',
      )

  def _rates(self, step):
    return {g.name: g.factor(step) for g in self.groups if not g.frozen}

  def names(self, path: KeyPath) -> tuple[str, ...]:
    """Returns the path of each layer in a parameter's array."""
    if path[0] == _TERMS:
      return ('.'.join(('losses', *keys(path)[1:])),)
    if self.sizes is None:
      return ('',)
    return layer_stack.paths(self.sizes, path[1:])

  @functools.cached_property
  def _matched(self) -> dict[str, Group | None]:
    """A cache of groups by path."""
    return {}

  def _group(self, name):
    if name not in self._matched:
      matching = (group for group in self.groups if group.matches(name))
      self._matched[name] = next(matching, None)
    return self._matched[name]

  def _is_frozen(self, path):
    if self.sizes is None:
      return False
    return all(map(self._is_frozen_at, self.names(path)))

  def _is_frozen_at(self, name):
    """Returns whether one layer's parameter is frozen."""
    group = self._group(name)
    return self.is_frozen(name) or (group is not None and group.frozen)

  def _factor(self, name, rates):
    if self._is_frozen_at(name):
      return 0.0
    group = self._group(name)
    own = self._layer_factor(name)
    if group is None:
      return own
    return rates[group.name] if own == 1.0 else own * rates[group.name]

  def _layer_factor(self, name):
    """Returns the factor of `layer_decay` on a parameter's learning rate."""
    if self.layer_decay == 1.0:
      return 1.0
    root, *rest = name.split('.')
    if root == 'layers':
      return self.layer_decay ** (self.sizes.num_layers - 1 - int(rest[0]))
    # A tied embedding has the factor of the input embedding.
    return (
      self.layer_decay**self.sizes.num_layers if root == 'embedding' else 1.0
    )


ALL_TRAINED = ParameterGroups()


def merge(trained: types.PyTree, frozen: types.PyTree) -> types.PyTree:
  """Returns the parameters that ParameterGroups.split divided."""
  return jax.tree.map(
    lambda x, y: y if x is None else x,
    trained,
    frozen,
    is_leaf=lambda x: x is None,
  )


def norm(gradients: types.PyTree, factors: types.PyTree | None) -> Array:
  """Returns the global norm of the gradients whose factor is not 0."""
  if factors is None:
    return optax.tree.norm(gradients)
  counted = lambda g, factor: (
    g if _is_one(factor) else jnp.where(jnp.asarray(factor) > 0, g, 0.0)
  )
  return optax.tree.norm(jax.tree.map(counted, gradients, factors))


def norms_by_module(
  gradients: types.PyTree, factors: types.PyTree | None
) -> dict[str, Array]:
  """Returns the norms of the gradients of a model with a vision tower.

  Args:
    gradients: a tree of trained parameters.
    factors: as for `norm`.

  Returns:
    Norms by trained module: 'tower', 'projector', and 'text' for the rest; {}
    for a model without a tower.
  """
  model = gradients[0]
  if 'vision' not in model:
    return {}
  of_factors = {} if factors is None else _modules(factors[0])
  return {
    name: norm(tree, of_factors.get(name))
    for name, tree in _modules(model).items()
    if jax.tree.leaves(tree)
  }


def _modules(model):
  """Returns the subtrees of the vision part, and the rest as 'text'."""
  rest = {name: value for name, value in model.items() if name != 'vision'}
  return {**model['vision'], 'text': rest}


def apply_updates(
  params: types.PyTree, updates: types.PyTree, factors: types.PyTree | None
) -> types.PyTree:
  """Adds updates times their factors; a factor of 0 changes no bit."""
  if factors is None:
    return optax.apply_updates(params, updates)

  def add(param, update, factor):
    if _is_one(factor):
      return param + update
    return jnp.where(jnp.asarray(factor) > 0, param + factor * update, param)

  return jax.tree.map(add, params, updates, factors)


def build(
  entries: Mapping[str, Mapping[str, Any]], path: str, steps: int
) -> tuple[Group, ...]:
  """Builds the groups of a config, sorted by name.

  Args:
    entries: fields of each group, by its name.
    path: config path of the entries.
    steps: number of updates of the whole run.

  Raises:
    ConfigError: a schedule is not legal.
  """
  groups = []
  for name, entry in sorted(entries.items()):
    decay = entry['weight_decay']
    groups.append(
      Group(
        name=name,
        match=entry['match'],
        rate=schedules.build(entry['rate'], f'{path}.{name}.rate', steps),
        weight_decay=None if decay == _OPTIMIZERS_OWN else decay,
        first_step=entry['first_step'],
        frozen=entry['frozen'],
      )
    )
  return tuple(groups)


def _check_group(group, names, group_of):
  """Raises ConfigError if no parameter belongs to a group."""
  matched = [name for name in names if group.matches(name)]
  path = f'optimizer.groups.{group.name}.match'
  if not matched:
    raise errors.ConfigError(
      path,
      f'{group.match!r} matches no parameter',
      legal='a regular expression of paths such as '
      + errors.first_of(_examples(names)),
      nearest=errors.nearest(group.match.replace('\\', ''), names),
    )
  owners = {group_of(name).name for name in matched}
  if group.name not in owners:
    raise errors.ConfigError(
      path,
      f'{group.match!r} matches only parameters of earlier groups: '
      + ', '.join(sorted(owners)),
      legal='an expression that matches others, or a name that is sorted '
      'before theirs',
    )


def _examples(names):
  """Returns the first path of each top-level module."""
  return list({name.partition('.')[0]: name for name in names[::-1]}.values())


def _by_layer(values, ndim):
  """Returns the layers' values as one value that broadcasts to their array."""
  if all(value is values[0] for value in values):
    return values[0]
  if any(isinstance(value, jax.Array) for value in values):
    stacked = jnp.stack([jnp.asarray(v, jnp.float32) for v in values])
  elif len(set(values)) == 1:
    return values[0]
  else:
    stacked = np.asarray(values, np.float32)
  return stacked.reshape(-1, *[1] * (ndim - 1))


def _is_one(factor):
  return isinstance(factor, float) and factor == 1.0


def _is_vector(path):
  """Returns whether a parameter is a norm's scale or a bias."""
  return keys(path)[-1] in ('scale', 'bias')


def keys(path: KeyPath) -> tuple[str, ...]:
  """Returns the keys of a leaf as strings."""
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
