"""Writes a model as a Hugging Face folder of safetensors files."""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import os
from typing import Any

import jax
import ml_dtypes
import numpy as np

from kd.checkpoints import gather
from kd.checkpoints import hf_config
from kd.checkpoints import hf_weights
from kd.core import atomic_files
from kd.core import errors
from kd.core import tensor_files
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

DTYPES = {'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}


def write(
  directory: str,
  params: types.PyTree,
  config: family.Config,
  dtype: str,
  bos_id: int | None,
  eos_ids: Sequence[int],
  pad_id: int,
  write_more: Callable[[str], None],
  file_bytes: int = 2 * 2**30,
  image_ids: tuple[int, int, int] | None = None,
) -> None:
  """Writes a model directory for transformers and vLLM.

  Writes a temporary directory and renames it, so that a reader sees either the
  old or the new files. A tied head is not written. All processes must call
  this; process 0 writes.

  Args:
    directory: path of the directory; replaced if it exists.
    params: the parameter tree, on host or devices.
    config: the model.
    dtype: 'bfloat16', to which float32 is rounded once, or 'float32'.
    bos_id: id of BOS; None if the tokenizer has none.
    eos_ids: ids that end generation: EOS, then end of turn.
    pad_id: id of padding.
    write_more: called last with the new directory, to write the tokenizer.
    file_bytes: maximum bytes of tensors per file, and so in host memory.
    image_ids: ids of images, for a model with a vision tower; see hf_config.

  Raises:
    ConfigError: dtype is not one of the two.
  """
  if dtype not in DTYPES:
    raise errors.unknown('export.dtype', 'type', dtype, list(DTYPES))
  tensors = families.of(config).tensors(config)
  arrays = gather.each(params, tensors)
  if jax.process_index():
    for _ in arrays:
      pass
    return
  with atomic_files.replaced_folder(directory) as new:
    key_of = functools.partial(families.of(config).hf_file_key, config)
    shards = _shards(tensors, dtype, file_bytes)
    _write_weights(new, shards, arrays, dtype, key_of)
    if config.vision is None:
      image_ids = None
    values = hf_config.to_dict(
      config, dtype, bos_id, eos_ids, pad_id, image_ids
    )
    _write_json(new, hf_config.FILE, values)
    for name, content in families.of(config).hf_processor(config).items():
      _write_json(new, name, content)
    ids = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    generation = {key: values[key] for key in ids} | {'do_sample': False}
    _write_json(new, 'generation_config.json', generation)
    write_more(new)


def _write_json(directory: str, name: str, values: Any) -> None:
  with open(os.path.join(directory, name), 'w', encoding='utf-8') as f:
    f.write(hf_config.to_json(values))


def _shards(
  tensors: Sequence[tensors_lib.Tensor], dtype: str, file_bytes: int
) -> list[list[tensors_lib.Tensor]]:
  """Groups consecutive tensors by file, with at least one tensor each."""
  item_bytes = np.dtype(DTYPES[dtype]).itemsize
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
  shards: Sequence[Sequence[tensors_lib.Tensor]],
  arrays: Iterator[tuple[tensors_lib.Tensor, np.ndarray]],
  dtype: str,
  key_of: Callable[[str], str],
) -> None:
  """Writes the files of `shards`; `arrays` yields their tensors in order."""
  places, total = {}, 0
  for i, shard in enumerate(shards, 1):
    file = hf_weights.SINGLE
    if len(shards) > 1:
      file = f'model-{i:05d}-of-{len(shards):05d}.safetensors'
    stored = {}
    for t, array in itertools.islice(arrays, len(shard)):
      key = key_of(t.hf)
      stored[key] = np.ascontiguousarray(
        t.to_file(array, tensors_lib.HF).astype(DTYPES[dtype])
      )
      places[key] = file
      total += stored[key].nbytes
    path = os.path.join(directory, file)
    tensor_files.save(path, stored, {'format': 'pt'})
  if len(shards) > 1:
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    _write_json(directory, hf_weights.INDEX, index)
  for _ in arrays:  # The other processes wait until it is exhausted.
    raise AssertionError('a tensor is in no file')
