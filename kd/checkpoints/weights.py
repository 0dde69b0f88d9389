"""Loads parameters from 'hf:DIR' or 'gguf:FILE', or copies a teacher's."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd.checkpoints import gguf_weights
from kd.checkpoints import hf_config
from kd.checkpoints import hf_weights
from kd.checkpoints import tensor_checks
from kd.core import errors
from kd.core import paths
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

PREFIXES = ('hf', 'gguf')
_LOG = logging.getLogger(__name__)


def split(init: str, path: str) -> tuple[str, str]:
  """Returns the kind and the place of weights.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: the config path of `init`, for messages.

  Raises:
    ConfigError: it is neither.
  """
  prefix, colon, place = init.partition(':')
  if prefix not in PREFIXES or not colon or not place:
    raise errors.ConfigError(
      path,
      f'found {init!r}',
      legal='hf:DIR, gguf:FILE',
      nearest=errors.nearest(prefix, PREFIXES),
    )
  return prefix, paths.expand(place)


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
  """Puts the config field that names a file before errors about the file."""
  try:
    yield
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _open(init: str, path: str, with_vision: bool) -> Any:
  """Opens the hf_weights.Source or gguf_weights.Source that `init` names."""
  prefix, place = split(init, path)
  with named(path):
    if prefix == 'hf':
      return hf_weights.Source(place, with_vision)
    return gguf_weights.Source(place)


def model_config(
  init: str, path: str, with_vision: bool = False
) -> family.Config:
  """Returns the model in 'hf:DIR' or 'gguf:FILE' from config.json or a header.

  Args:
    init: as in the config.
    path: the config path of `init`, for messages.
    with_vision: whether the model has its vision tower, if there is one.

  Returns:
    Its sizes and constants.

  Raises:
    ConfigError: the file is missing, damaged, or of another model.
  """
  prefix, place = split(init, path)
  with named(path):
    if prefix == 'hf':
      return hf_config.read(place, with_vision)
    return gguf_weights.Source(place).config


def check_headers(init: str, path: str, with_vision: bool = False) -> None:
  """Checks names, types and shapes of all tensors; reads headers alone.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: the config path of `init`, for messages.
    with_vision: whether the tensors of the vision tower are read too.

  Raises:
    ConfigError: a file is missing or damaged, or a tensor is missing, extra or
      of another shape.
  """
  source = _open(init, path, with_vision)
  with named(path):
    tensor_checks.check_shapes(source)


def check_keep_layers(
  keep_layers: Sequence[int], num_layers: int, path: str
) -> None:
  """Raises ConfigError unless the indices rise within 0..num_layers - 1."""
  legal = f'indices in rising order, 0 to {num_layers - 1}'
  for i in keep_layers:
    if not 0 <= i < num_layers:
      raise errors.ConfigError(path, f'found {i}', legal=legal)
  for i, j in itertools.pairwise(keep_layers):
    if i >= j:
      raise errors.ConfigError(path, f'found {i} before {j}', legal=legal)


def _kept(config: family.Config, keep_layers: Sequence[int]) -> tuple[int, ...]:
  check_keep_layers(keep_layers, config.num_layers, 'student.keep_layers')
  return tuple(keep_layers) or tuple(range(config.num_layers))


def _check_config(
  source: Any, kept: Sequence[int], model: family.Model
) -> None:
  """Raises ConfigError unless the module fits the source's kept layers.

  The module may have fewer embedding rows than the source: see load.
  """
  there = source.config.keep_layers(kept).to_dict()
  here = model.config.to_dict()
  if here['vocab_size'] < there['vocab_size']:
    there['vocab_size'] = here['vocab_size']
  differ = [
    f'{key} is {there.get(key)!r} there and {here.get(key)!r} in the model'
    for key in there | here
    if there.get(key) != here.get(key)
  ]
  if differ:
    raise errors.ConfigError(source.file, '; '.join(differ))


def by_leaf(
  source_config: family.Config,
  kept: Sequence[int],
) -> dict[tuple[str, ...], list[tuple[tensors_lib.Tensor, tensors_lib.Tensor]]]:
  """Returns the (target, source) tensors of each kept parameter."""
  chosen = families.of(source_config)
  by_layer = {}
  for tensor in chosen.tensors(source_config):
    by_layer.setdefault(tensor.layer, []).append(tensor)
  sources = [t for layer in (None, *kept) for t in by_layer[layer]]
  targets = chosen.tensors(source_config.keep_layers(kept))
  leaves = {}
  for target, source in zip(targets, sources, strict=True):
    leaves.setdefault(target.path, []).append((target, source))
  return leaves


def load(
  init: str,
  model: family.Model,
  shardings: types.PyTree | None,
  keep_layers: Sequence[int],
  dtype: str,
  path: str,
  convert: Callable[[tuple[str, ...], jax.Array], types.PyTree] | None = None,
) -> types.PyTree:
  """Reads parameters, tensor by tensor, into their shards.

  Nothing is read before every tensor's name and shape is known to be right. On
  the host are one tensor of the files and, of one parameter, the parts of this
  process's devices. Rows of embeddings beyond the module's vocabulary are left
  out.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    model: the module; its config is that of `init`, reduced to keep_layers.
    shardings: a tree of jax.sharding.Sharding like the parameters, or None for
      the default device.
    keep_layers: indices of the source's layers that are kept, () for all.
    dtype: of the parameters, 'float32' or 'bfloat16'.
    path: the config path of `init`, for messages.
    convert: from a parameter's keys and value to what the tree holds instead.

  Returns:
    Parameters, in the tree of Model.init_params.

  Raises:
    ConfigError: a file is missing or damaged, a tensor is missing, extra,
      misshapen or not finite, or the model is another.
  """
  source = _open(init, path, model.config.vision is not None)
  kept = _kept(source.config, keep_layers)
  with named(path):
    _check_config(source, kept, model)
    tensor_checks.check_shapes(source)
    source.check_head()
  if source.skipped:
    _LOG.info(
      '%s: left out %d vision tensors', source.file, len(source.skipped)
    )
  params = {}
  for leaf, pairs in by_leaf(source.config, kept).items():
    sharding = (
      tensors_lib.leaf(shardings, leaf) if shardings is not None else None
    )
    rows = model.config.vocab_size if pairs[0][0].is_table else None
    with named(path):
      placed = place(source, pairs, sharding, dtype, rows)
    value = placed if convert is None else convert(leaf, placed)
    tensors_lib.set_leaf(params, leaf, value)
  return params


def place(
  source: Any,
  pairs: Sequence[tuple[tensors_lib.Tensor, tensors_lib.Tensor]],
  sharding: jax.sharding.Sharding | None,
  dtype: str,
  rows: int | None = None,
) -> jax.Array:
  """Reads one parameter into its shards, a tensor at a time.

  Args:
    source: reads tensors: a hf_weights.Source or gguf_weights.Tensors.
    pairs: the tensors of the parameter, and those that are read for them.
    sharding: of the result; None: the default device.
    dtype: of the result.
    rows: how many of the tensor's first rows are taken; None: all.

  Raises:
    ConfigError: a value is not finite.
  """
  target = pairs[0][0]
  shape = target.shape if rows is None else (rows, *target.shape[1:])
  if target.group is not None:
    shape = len(pairs), *shape

  def bounds(index):
    return tuple(
      part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
    )

  indices = [(slice(None),) * len(shape)]
  if sharding is not None:
    indices = sharding.addressable_devices_indices_map(shape).values()
  # Devices with the same part share it.
  parts = {
    where: np.empty([end - begin for begin, end in where], jnp.dtype(dtype))
    for where in map(bounds, indices)
  }
  for tensor, origin in pairs:
    _fill(parts, tensor, _read(source, origin))
  if sharding is None:
    (part,) = parts.values()
    placed = jax.device_put(part)
  else:
    placed = jax.make_array_from_callback(
      shape, sharding, lambda index: parts[bounds(index)]
    )
  # The parts can go then.
  return placed.block_until_ready()


def _fill(parts, tensor, array):
  """Puts the values of a tensor where parts of its parameter have them."""
  for where, part in parts.items():
    inner = where if tensor.group is None else where[1:]
    values = array[tuple(slice(*ends) for ends in inner)]
    if tensor.group is None:
      part[...] = values
    elif where[0][0] <= tensor.group < where[0][1]:
      part[tensor.group - where[0][0]] = values


def _read(source, tensor) -> np.ndarray:
  """Reads a tensor as float32."""
  name = tensor.name(source.layout)
  array = source.read(name)
  tensor_checks.check_finite(array, f'{source.file}: {name}')
  return np.asarray(tensor.from_file(array, source.layout), np.float32)


def layers_from(
  params: types.PyTree,
  config: family.Config,
  keep_layers: Sequence[int],
  shardings: types.PyTree | None = None,
) -> types.PyTree:
  """Copies a loaded model's kept layers to the parameters of a smaller one.

  Args:
    params: the source's parameters.
    config: the source's config.
    keep_layers: indices of the layers that are kept, () for all.
    shardings: a tree of jax.sharding.Sharding like the result, or None to leave
      that to the compiler.

  Returns:
    float32 parameters that share no buffer with `params`.

  Raises:
    ConfigError: keep_layers is out of range or out of order.
  """
  leaves = by_leaf(config, _kept(config, keep_layers))

  def one(source, origin):
    leaf = tensors_lib.leaf(source, origin.path)
    return leaf if origin.group is None else leaf[origin.group]

  def take(source):
    result = {}
    for path, pairs in leaves.items():
      parts = [one(source, origin) for _, origin in pairs]
      stack = pairs[0][0].group is not None
      array = jnp.stack(parts) if stack else jnp.copy(parts[0])
      tensors_lib.set_leaf(result, path, array.astype(jnp.float32))
    return result

  return jax.jit(take, out_shardings=shardings)(params)
