"""Reads a model from a Hugging Face folder of safetensors files.

Opening a folder reads its config, its index and the headers of its files.
Tensors are read later, one at a time.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
from typing import Any

import numpy as np
import safetensors

from kd.checkpoints import hf_config
from kd.core import errors
from kd.core import json_files
from kd.models import families
from kd.models import tensors as tensors_lib

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
HEAD = 'lm_head.weight'
EMBEDDING = 'model.embed_tokens.weight'
_READABLE = ('BF16', 'F16', 'F32', 'F64')


def common_prefix(
  keys: list[str], canonical: Callable[[str], str | None]
) -> str:
  """Returns the prefix that a wrapper added to every key, or ''.

  torch.compile saves `_orig_mod.model.embed_tokens.weight`, data parallelism
  adds `module.`, PEFT adds `base_model.model.`, and prefixes may be nested. All
  keys must begin with the prefix, and without it, one of them must be the key
  of the embedding.

  Args:
    keys: the keys of all files.
    canonical: see family.Family.hf_key.
  """
  if not keys:
    return ''
  shared = os.path.commonprefix(keys)
  prefix = ''
  while True:
    rest = {key[len(prefix) :] for key in keys}
    if any(canonical(key) == EMBEDDING for key in rest):
      return prefix
    end = shared.find('.', len(prefix))
    if end < 0:
      return ''
    prefix = shared[: end + 1]


class Source:
  """A folder's tensors, read one at a time.

  Attributes:
    file: path of the folder.
    layout: tensors_lib.HF.
    config: config of the model.
    shapes: shapes of the tensors by canonical name.
    skipped: keys of the vision tensors if they are left out.
  """

  layout = tensors_lib.HF

  def __init__(self, directory: str, with_vision: bool = False):
    """Reads the config and the headers of the files, but no tensors.

    Args:
      directory: a Hugging Face model directory.
      with_vision: whether to include the vision tower, if there is one.

    Raises:
      ConfigError: a file is missing or damaged, two keys map to the same
        tensor, or a tied output head has another shape than the embedding.
    """
    self.file = directory
    self.config = hf_config.read(directory, with_vision)
    self.shapes = {}
    self.skipped = ()
    self._places = {}
    headers = [
      (path, key, header)
      for path in (os.path.join(directory, f) for f in _files(directory))
      for key, header in _headers(path).items()
    ]
    canonical = functools.partial(
      families.of(self.config).hf_key,
      with_vision=self.config.vision is not None,
    )
    prefix = common_prefix([key for _, key, _ in headers], canonical)
    for path, key, header in headers:
      self._add(path, key, header, canonical(key[len(prefix) :]))
    self._head_shape = None
    if self.config.tied:
      self._head_shape = self.shapes.pop(HEAD, None)
    if self._head_shape not in (None, self.shapes.get(EMBEDDING)):
      raise self._untied()

  def _add(
    self,
    path: str,
    key: str,
    header: tuple[str, tuple[int, ...]],
    name: str | None,
  ) -> None:
    if name is None:
      self.skipped += (key,)
      return
    if name in self._places:
      other_file, other_key = self._places[name]
      raise errors.ConfigError(
        f'{path}: {key}',
        f'duplicates {other_key} in {other_file}: both are {name}',
        legal='each tensor once',
      )
    dtype, shape = header
    if dtype not in _READABLE:
      raise errors.ConfigError(
        f'{path}: {key}', f'has type {dtype}', legal=', '.join(_READABLE)
      )
    self._places[name] = (path, key)
    self.shapes[name] = shape

  def _untied(self) -> errors.ConfigError:
    file, key = self._places[HEAD]
    return errors.ConfigError(
      f'{file}: {key}',
      f'is an untied output head, {list(self._head_shape)}',
      legal=f'none, or the same values as {EMBEDDING}: config.json ties '
      'the head',
    )

  def check_head(self) -> None:
    """Checks that a tied output head, if stored, equals the embedding.

    Raises:
      ConfigError: they differ.
    """
    if self._head_shape is not None and not self._equal(HEAD, EMBEDDING):
      raise self._untied()

  def _equal(self, first: str, second: str) -> bool:
    rows, step = self.shapes[second][0], 4096
    (one, key), (other, other_key) = self._places[first], self._places[second]
    with _opened(one) as a, _opened(other) as b:
      x, y = a.get_slice(key), b.get_slice(other_key)
      return all(
        np.array_equal(x[i : min(i + step, rows)], y[i : min(i + step, rows)])
        for i in range(0, rows, step)
      )

  def read(self, name: str) -> np.ndarray:
    """Reads a tensor by canonical name, in the file's type and layout."""
    file, key = self._places[name]
    with _opened(file) as tensors:
      return tensors.get_tensor(key)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Any]:
  try:
    with safetensors.safe_open(file, framework='numpy') as tensors:
      yield tensors
  except (safetensors.SafetensorError, OSError) as e:
    raise errors.ConfigError(
      file, f'is damaged or cut short ({e})', legal='a safetensors file'
    ) from e


def _headers(file: str) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Returns the type and shape of each tensor of a file."""
  with _opened(file) as tensors:
    slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118, not a dict
    return {
      key: (part.get_dtype(), tuple(part.get_shape()))
      for key, part in slices.items()
    }


def _files(directory: str) -> list[str]:
  """Returns the names of the weight files, from the index if there is one."""
  index = os.path.join(directory, INDEX)
  if not os.path.isfile(index):
    if os.path.isfile(os.path.join(directory, SINGLE)):
      return [SINGLE]
    raise errors.ConfigError(
      directory, 'contains no weights', legal=f'{SINGLE}, or {INDEX} and shards'
    )
  places = json_files.read(index).get('weight_map')
  if not isinstance(places, dict) or not places:
    raise errors.ConfigError(
      f'{index}: weight_map',
      f'found {json_files.short(places)}',
      legal='an object from tensors to files',
    )
  for file in places.values():
    if not isinstance(file, str) or not file or os.path.basename(file) != file:
      raise errors.ConfigError(
        f'{index}: weight_map',
        f'found {json_files.short(file)}',
        legal='names of files in the same folder',
      )
  shards = sorted(set(places.values()))
  missing = [
    name for name in shards if not os.path.isfile(os.path.join(directory, name))
  ]
  if missing:
    raise errors.ConfigError(
      os.path.join(directory, missing[0]),
      f'no such file, but {INDEX} names it ({len(missing)} of '
      f'{len(shards)} files are missing)',
    )
  return shards
