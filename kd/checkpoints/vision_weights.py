"""Reads a vision tower and its projector, without the text model."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

from kd.checkpoints import gguf_weights
from kd.checkpoints import hf_weights
from kd.checkpoints import tensor_checks
from kd.checkpoints import weights
from kd.core import errors
from kd.core import types
from kd.models import families
from kd.models import family as family_lib
from kd.models import tensors as tensors_lib
from kd.models.vision import config as vision_config

_PROJECTOR = 'projector'


@dataclasses.dataclass(frozen=True)
class Source:
  """A tower in a Hugging Face folder or in an mmproj file of llama.cpp.

  Attributes:
    config: config of the tower.
    text_dim: width of the text model, the output width of the projector.
    family: model family.
    tensors: reader of the tensors: a hf_weights.Source or gguf_weights.Tensors.
  """

  config: vision_config.VisionConfig
  text_dim: int
  family: family_lib.Family
  tensors: Any


def open_(init: str, family: family_lib.Family, path: str) -> Source:
  """Reads the headers of a tower's files, but no tensors.

  Args:
    init: 'hf:DIR', or 'gguf:FILE' with an mmproj file.
    family: family of the model that will use the tower.
    path: config path of `init`, for messages.

  Raises:
    ConfigError: there is no tower of this family, or a tensor is missing, extra
      or of another shape.
  """
  prefix, place = weights.split(init, path)
  with weights.named(path):
    if prefix == 'hf':
      return _of_folder(place, family)
    tensors = gguf_weights.Tensors(place)
    config, text_dim = family.vision_from_gguf(
      tensors.metadata, tensors.shapes, place
    )
    source = Source(config, text_dim, family, tensors)
    tensor_checks.check(tensors, family.vision_tensors(config, text_dim))
  return source


def _of_folder(place, family):
  """Opens a Hugging Face folder."""
  tensors = hf_weights.Source(place, with_vision=True)
  config = tensors.config
  if config.vision is None or families.of(config) is not family:
    raise errors.ConfigError(
      os.path.join(place, 'config.json'),
      f'describes a model of {families.of(config).title} '
      + ('without' if config.vision is None else 'with')
      + ' a vision tower',
      legal=f'one of {family.title} with a tower',
    )
  tensor_checks.check_shapes(tensors)
  return Source(config.vision, config.embed_dim, family, tensors)


def load(
  source: Source,
  shardings: types.PyTree,
  dtype: str,
  with_projector: bool,
  path: str,
) -> types.PyTree:
  """Reads the tower, tensor by tensor, into its shards.

  Args:
    source: result of `open_`.
    shardings: tree of shardings like the result.
    dtype: data type of the parameters, 'float32' or 'bfloat16'.
    with_projector: whether to read the projector, too.
    path: config path of the source, for messages.

  Returns:
    The parameter tree of the tower and, if requested, of the projector.

  Raises:
    ConfigError: a value is not finite.
  """
  leaves: dict[tuple[str, ...], list[tensors_lib.Tensor]] = {}
  for tensor in source.family.vision_tensors(source.config, source.text_dim):
    _, *keys = tensor.path
    if with_projector or keys[0] != _PROJECTOR:
      leaves.setdefault(tuple(keys), []).append(tensor)
  params: types.PyTree = {}
  for keys, tensors in leaves.items():
    with weights.named(path):
      placed = weights.place(
        source.tensors,
        [(t, t) for t in tensors],
        tensors_lib.leaf(shardings, keys),
        dtype,
      )
    tensors_lib.set_leaf(params, keys, placed)
  return params


def copied(
  params: types.PyTree, shardings: types.PyTree, dtype: str
) -> types.PyTree:
  """Copies parameters to other devices and another data type."""
  copy = lambda tree: jax.tree.map(lambda x: jnp.copy(x).astype(dtype), tree)
  moved = jax.device_put(params, shardings)
  return jax.jit(copy, out_shardings=shardings)(moved)
