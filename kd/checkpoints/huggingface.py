"""Gemma 3 from and to a Hugging Face directory of safetensors files."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import re
import shutil
import tempfile
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from kd.checkpoints import hf_config
from kd.checkpoints import names
from kd.core import errors
from kd.core import types
from kd.models import gemma3_config

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
HEAD = 'lm_head.weight'
DTYPES = {'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}
_READABLE = ('BF16', 'F16', 'F32', 'F64')

_VISION = re.compile(r'(model\.)?(vision_tower|multi_modal_projector)\.')
# The known homes of the text model: flat files, 4B as published, 4B as newer
# transformers write it; the head is outside of the model.
_TEXT_HEAD = re.compile(r'(?:language_model\.)?lm_head\.weight$')
_TEXT = re.compile(
  r'(?:model\.language_model\.|language_model\.model\.|model\.)'
  r'((?:embed_tokens|layers|norm)\..*)'
)
_BARE = re.compile(r'((?:embed_tokens|layers|norm)\..*)')


def canonical(key: str) -> str | None:
  """A file's key as a flat file has it; None for a vision tensor."""
  if _VISION.match(key):
    return None
  if _TEXT_HEAD.match(key):
    return HEAD
  match = _TEXT.match(key) or _BARE.match(key)
  return f'model.{match.group(1)}' if match else key


class Source:
  """A directory's tensors, read one at a time.

  Attributes:
    file: the directory.
    layout: names.HF.
    config: the model in it.
    shapes: the text tensors' shapes by canonical name.
    skipped: names of the vision tensors, which are left out.
  """

  layout = names.HF

  def __init__(self, directory: str):
    """Reads the config and the headers of the files.

    Args:
      directory: a Hugging Face model directory.

    Raises:
      ConfigError: it lacks a file, a file is damaged, two keys mean the same
        tensor, or an untied head differs from the embedding.
    """
    self.file = directory
    self.config = hf_config.read(directory)
    self.shapes = {}
    self.skipped = ()
    self._places = {}
    for file in _files(directory):
      self._add(os.path.join(directory, file))
    self._check_head()

  def _add(self, file: str) -> None:
    with _opened(file) as tensors:
      for key in tensors.keys():  # noqa: SIM118, not a dict
        name = canonical(key)
        if name is None:
          self.skipped += (key,)
          continue
        if name in self._places:
          raise errors.ConfigError(
            f'{file}: {key}',
            f'is {name} once more, beside '
            f'{self._places[name][1]} of {self._places[name][0]}',
          )
        header = tensors.get_slice(key)
        if header.get_dtype() not in _READABLE:
          raise errors.ConfigError(
            f'{file}: {key}',
            f'has type {header.get_dtype()}',
            legal=', '.join(_READABLE),
          )
        self._places[name] = (file, key)
        self.shapes[name] = tuple(header.get_shape())

  def _check_head(self) -> None:
    if HEAD not in self.shapes:
      return
    embedding = 'model.embed_tokens.weight'
    file, key = self._places[HEAD]
    found = self.shapes.pop(HEAD)
    if embedding in self.shapes and (
      found != self.shapes[embedding] or not self._equal(HEAD, embedding)
    ):
      raise errors.ConfigError(
        f'{file}: {key}',
        f'an output head {list(found)} of its own',
        legal=f'none, or the same values as {embedding}: the head is tied',
      )

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
    """A tensor in the file's type and layout, by canonical name."""
    file, key = self._places[name]
    with _opened(file) as tensors:
      return tensors.get_tensor(key)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Any]:
  try:
    with safetensors.safe_open(file, framework='numpy') as tensors:
      yield tensors
  except safetensors.SafetensorError as e:
    raise errors.ConfigError(
      file, f'is damaged or cut short ({e})', legal='a safetensors file'
    ) from e


def _files(directory: str) -> list[str]:
  """Names of the weights' files, from the index if there is one."""
  index = os.path.join(directory, INDEX)
  if not os.path.isfile(index):
    if os.path.isfile(os.path.join(directory, SINGLE)):
      return [SINGLE]
    raise errors.ConfigError(
      directory, 'holds no weights', legal=f'{SINGLE}, or {INDEX} and shards'
    )
  with open(index, encoding='utf-8') as f:
    try:
      shards = sorted(set(json.load(f)['weight_map'].values()))
    except (json.JSONDecodeError, KeyError, AttributeError) as e:
      raise errors.ConfigError(
        index, f'is damaged ({e})', legal='an object with weight_map'
      ) from e
  for shard in shards:
    if not os.path.isfile(os.path.join(directory, shard)):
      raise errors.ConfigError(
        os.path.join(directory, shard), f'no such file, but {INDEX} names it'
      )
  return shards


def write(
  directory: str,
  params: types.PyTree,
  config: gemma3_config.Gemma3Config,
  dtype: str,
  bos_id: int,
  eos_ids: Sequence[int],
  pad_id: int,
  write_tokenizer: Callable[[str], None],
  file_bytes: int = 2 * 2**30,
) -> None:
  """Writes a directory that transformers and vLLM load.

  Everything goes to a directory beside it first and is then renamed, so that a
  reader finds the old files or the new ones. There is no head: it is tied.

  Args:
    directory: where to; what is there is replaced.
    params: the parameter tree, on host or devices.
    config: the model.
    dtype: 'bfloat16', to which float32 is rounded once, or 'float32'.
    bos_id: begins every text.
    eos_ids: ids that end generation: EOS, then end of turn.
    pad_id: id of padding.
    write_tokenizer: called with the new directory, to put the tokenizer there.
    file_bytes: most bytes of tensors in a file, and so of host memory.

  Raises:
    ConfigError: dtype is not one of the two.
  """
  if dtype not in DTYPES:
    raise errors.unknown('export.dtype', 'type', dtype, list(DTYPES))
  with _replaced(directory) as new:
    _write_weights(new, params, config, dtype, file_bytes)
    values = hf_config.to_dict(config, dtype, bos_id, eos_ids, pad_id)
    _write_json(new, hf_config.FILE, values)
    ids = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    generation = {key: values[key] for key in ids} | {'do_sample': False}
    _write_json(new, 'generation_config.json', generation)
    write_tokenizer(new)


@contextlib.contextmanager
def _replaced(directory: str) -> Iterator[str]:
  """A new directory that takes the place of `directory` once it is filled."""
  directory = os.path.abspath(directory)
  parent, name = os.path.split(directory)
  os.makedirs(parent, exist_ok=True)
  work = tempfile.mkdtemp(prefix=f'.{name}.', dir=parent)
  try:
    new = os.path.join(work, 'new')
    os.mkdir(new)
    yield new
    if os.path.exists(directory):
      os.rename(directory, os.path.join(work, 'old'))
    os.rename(new, directory)
  finally:
    shutil.rmtree(work)


def _write_json(directory: str, name: str, values: Any) -> None:
  with open(os.path.join(directory, name), 'w', encoding='utf-8') as f:
    f.write(hf_config.to_json(values))


def _shards(
  tensors: Sequence[names.Tensor], item_bytes: int, file_bytes: int
) -> list[list[names.Tensor]]:
  """Consecutive tensors that fit in a file together; never an empty list."""
  shards, used = [[]], 0
  for tensor in tensors:
    size = int(np.prod(tensor.shape)) * item_bytes
    if shards[-1] and used + size > file_bytes:
      shards.append([])
      used = 0
    shards[-1].append(tensor)
    used += size
  return shards


def _write_weights(
  directory: str,
  params: types.PyTree,
  config: gemma3_config.Gemma3Config,
  dtype: str,
  file_bytes: int,
) -> None:
  item_bytes = np.dtype(DTYPES[dtype]).itemsize
  shards = _shards(names.tensors(config), item_bytes, file_bytes)
  places, total = {}, 0
  for i, shard in enumerate(shards, 1):
    file = SINGLE
    if len(shards) > 1:
      file = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
    arrays = {}
    for t in shard:
      leaf = names.leaf(params, t.path)
      array = np.asarray(leaf if t.group is None else leaf[t.group])
      arrays[t.hf] = np.ascontiguousarray(
        t.to_file(array, names.HF).astype(DTYPES[dtype])
      )
      places[t.hf] = file
      total += arrays[t.hf].nbytes
    safetensors.numpy.save_file(
      arrays, os.path.join(directory, file), metadata={'format': 'pt'}
    )
  if len(shards) > 1:
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    _write_json(directory, INDEX, index)
