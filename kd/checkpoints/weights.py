"""Loads parameters from 'hf:DIR' or 'gguf:FILE', or copies them."""

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
  """Splits the location of weights into prefix and path.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: config path of `init`, for messages.

  Raises:
    ConfigError: `init` is neither.
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
  """Prepends the config path of a file to errors about it."""
  try:
    yield
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _open(init: str, path: str, with_vision: bool) -> Any:
  """Returns the hf_weights.Source or gguf_weights.Source of `init`."""
  prefix, place = split(init, path)
  with named(path):
    if prefix == 'hf':
      return hf_weights.Source(place, with_vision)
    return gguf_weights.Source(place)


def model_config(
  init: str, path: str, with_vision: bool = False
) -> family.Config:
  """Returns the config of a model from config.json or a GGUF header.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: config path of `init`, for messages.
    with_vision: whether the model has its vision tower, if there is one.

  Raises:
    ConfigError: the file is missing or damaged, or its model is not supported.
  """
  prefix, place = split(init, path)
  with named(path):
    if prefix == 'hf':
      return hf_config.read(place, with_vision)
    return gguf_weights.Source(place).config


def check_headers(init: str, path: str, with_vision: bool = False) -> None:
  """Checks names, types and shapes of all tensors, reading only headers.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    path: config path of `init`, for messages.
    with_vision: whether to include the tensors of the vision tower.

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
  """Raises ConfigError unless indices ascend within 0..num_layers - 1."""
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
  """Raises ConfigError unless the model matches the source's kept layers.

  The model may have fewer embedding rows than the source; see `load`.
  """
  there = source.config.keep_layers(kept).to_dict()
  here = model.config.to_dict()
  if here['vocab_size'] < there['vocab_size']:
    there['vocab_size'] = here['vocab_size']
  differ = [
    f'{key} is {there.get(key)!r} in the weights and {here.get(key)!r} in the '
    'model'
    for key in there | here
    if there.get(key) != here.get(key)
  ]
  if differ:
    raise errors.ConfigError(source.file, '; '.join(differ))


def by_leaf(
  source_config: family.Config,
  kept: Sequence[int],
) -> dict[tuple[str, ...], list[tuple[tensors_lib.Tensor, tensors_lib.Tensor]]]:
  """Returns the (target, source) tensors of each kept parameter, by path."""
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

  Checks the names and shapes of all tensors before reading any. The host memory
  holds one tensor of the files and this process's shards of one parameter.
  Embedding rows beyond the model's vocabulary are dropped.

  Args:
    init: 'hf:DIR' or 'gguf:FILE'.
    model: the model; its config is that of `init`, reduced to keep_layers.
    shardings: a tree of jax.sharding.Sharding like the parameters; None: the
      default device.
    keep_layers: indices of the source's layers to keep; (): all.
    dtype: data type of the parameters, 'float32' or 'bfloat16'.
    path: config path of `init`, for messages.
    convert: function of a parameter's path and value that returns the subtree
      to store instead.

  Returns:
    Parameters, in the tree of Model.init_params.

  Raises:
    ConfigError: a file is missing or damaged, a tensor is missing, extra, not
      finite or of another shape, or the config differs from the model's.
  """
  source = _open(init, path, model.config.vision is not None)
  kept = _kept(source.config, keep_layers)
  with named(path):
    _check_config(source, kept, model)
    tensor_checks.check_shapes(source)
    source.check_head()
  if source.skipped:
    _LOG.info('%s: skipped %d vision tensors', source.file, len(source.skipped))
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
    source: a hf_weights.Source or gguf_weights.Tensors.
    pairs: (target, source) tensors of the parameter.
    sharding: sharding of the result; None: the default device.
    dtype: data type of the result.
    rows: number of rows to keep; None: all.

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
  # Devices with the same shard share one host array.
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
  # The host arrays can be freed after this.
  return placed.block_until_ready()


def _fill(parts, tensor, array):
  """Copies the values of a tensor to the parts that contain them."""
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
  """Copies the kept layers of a loaded model to a smaller one.

  Args:
    params: parameters of the source.
    config: config of the source.
    keep_layers: indices of the layers to keep; (): all.
    shardings: a tree of jax.sharding.Sharding like the result; None: chosen by
      the compiler.

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
