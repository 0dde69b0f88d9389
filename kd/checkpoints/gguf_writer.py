"""Writes a model as a GGUF file, which llama.cpp loads."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import math
from typing import Any

import gguf
import jax
import numpy as np

from kd.checkpoints import gather
from kd.core import atomic_files
from kd.core import errors
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

_Kind = gguf.GGMLQuantizationType
# By name of a type: the value of general.file_type.
FILE_TYPES = {'F32': 0, 'F16': 1, 'BF16': 32, 'Q8_0': 7, 'Q4_0': 2}
TOKENS = 'tokenizer.ggml.tokens'
_MOST_LAYERS = 512  # llama.cpp reads no more.


def embedding_type(chosen: str, weight_type: str) -> str:
  """Returns the type of the embedding.

  Args:
    chosen: export.gguf_embedding_type.
    weight_type: the type of the other matrices.
  """
  if chosen != 'auto':
    return chosen
  # It is the output head too, whose errors reach the logits directly.
  return 'Q8_0' if weight_type == 'Q4_0' else weight_type


def check(
  config: family.Config, weight_type: str, table_type: str, path: str
) -> None:
  """Raises ConfigError for a model that a GGUF of these types cannot hold.

  Args:
    config: the model.
    weight_type: the type of matrices, of FILE_TYPES.
    table_type: the type of the embedding and of an output head of its own.
    path: the config path of the types, for messages.
  """
  if config.num_layers > _MOST_LAYERS:
    raise errors.ConfigError(
      path,
      f'the student has {config.num_layers} layers',
      legal=f'up to {_MOST_LAYERS} layers, for llama.cpp',
    )
  wrong = {}
  for t in families.of(config).tensors(config.without_vision):
    block, _ = gguf.GGML_QUANT_SIZES[_kind(t, weight_type, table_type)]
    if t.file_shape[-1] % block:
      kind = _kind(t, weight_type, table_type).name
      wrong[t.gguf] = f'{t.gguf} has rows of {t.file_shape[-1]} ({kind})'
  if wrong:
    raise errors.ConfigError(
      path,
      f'{errors.first_of(list(wrong.values()))}',
      legal='rows of a multiple of 32 values for Q8_0 and Q4_0; any for F32, '
      'F16, BF16',
    )


def _kind(
  tensor: tensors_lib.Tensor, weight_type: str, table_type: str
) -> gguf.GGMLQuantizationType:
  """Returns the type of a tensor; norms, which are vectors, stay float32."""
  if len(tensor.file_shape) == 1:
    return _Kind.F32
  return _Kind[table_type if tensor.is_table else weight_type]


def write(
  path: str,
  params: types.PyTree,
  config: family.Config,
  weight_type: str,
  table_type: str,
  metadata: Mapping[str, Any],
) -> None:
  """Writes a file that llama.cpp loads; mmproj writes a vision tower's.

  It is written aside, tensor by tensor, and renamed. All processes call this;
  the first one writes.

  Args:
    path: the file; replaced if it exists.
    params: the parameter tree, on host or devices.
    config: the model; see check.
    weight_type: the type of matrices, of FILE_TYPES.
    table_type: the type of the embedding and of an output head of its own,
      which are cut, if need be, to a row for each token.
    metadata: of the tokenizer, and general.name.

  Raises:
    ConfigError: a value is not finite in the tensor's type.
  """
  config = config.without_vision
  chosen = families.of(config)
  rows = len(metadata[TOKENS])
  tensors = chosen.tensors(config)

  def convert(tensor, array):
    array = chosen.to_gguf(config, tensor, array)
    return array[:rows] if tensor.is_table else array

  write_file(
    path,
    chosen.gguf_architecture,
    fields(config, weight_type, metadata),
    {t.gguf: _kind(t, weight_type, table_type) for t in tensors},
    {t.gguf: (rows, *t.file_shape[1:]) for t in tensors if t.is_table},
    params,
    tensors,
    convert,
  )


def write_file(
  path: str,
  architecture: str,
  metadata: Mapping[str, Any],
  kinds: Mapping[str, gguf.GGMLQuantizationType],
  cut: Mapping[str, tuple[int, ...]],
  params: types.PyTree,
  tensors: Sequence[tensors_lib.Tensor],
  convert: Callable[[tensors_lib.Tensor, np.ndarray], np.ndarray],
) -> None:
  """Writes a file aside, tensor by tensor, and renames it; see write.

  Args:
    path: the file; replaced if it exists.
    architecture: general.architecture.
    metadata: all other fields by key.
    kinds: the type of each tensor by its name in the file.
    cut: the shapes of tensors that are not Tensor.file_shape.
    params: the parameter tree, on host or devices.
    tensors: what to write, in order.
    convert: maps a parameter, float32, to the array of the file.

  Raises:
    ConfigError: a value is not finite in the tensor's type.
  """
  arrays = gather.each(params, tensors)
  if jax.process_index():
    for _ in arrays:
      pass
    return
  with atomic_files.aside(path) as aside:
    writer = gguf.GGUFWriter(aside, architecture)
    with contextlib.closing(writer):
      for key, value in metadata.items():
        _add_field(writer, key, value)
      for t in tensors:
        shape = cut.get(t.gguf, t.file_shape)
        _add_tensor(writer, t.gguf, shape, kinds[t.gguf])
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_ti_data_to_file()
      for t, array in arrays:
        array = convert(t, array.astype(np.float32, copy=False))
        array = np.ascontiguousarray(array)
        writer.write_tensor_data(_quantize(array, kinds[t.gguf], t.gguf))


def _add_tensor(
  writer: gguf.GGUFWriter,
  name: str,
  shape: tuple[int, ...],
  kind: gguf.GGMLQuantizationType,
) -> None:
  """Adds a tensor to the header; its values are written later."""
  block, size = gguf.GGML_QUANT_SIZES[kind]
  count = math.prod(shape) // block * size
  writer.add_tensor_info(name, shape, np.float32, count, kind)


def _quantize(
  array: np.ndarray, kind: gguf.GGMLQuantizationType, name: str
) -> np.ndarray:
  with np.errstate(over='ignore', invalid='ignore'):
    result = gguf.quantize(array, kind)
  # A float16, also that of a block's scale, ends at 65504.
  limits = {_Kind.F16: 1.0, _Kind.Q8_0: 127.0, _Kind.Q4_0: 8.0}
  if kind in limits:
    most = float(np.finfo(np.float16).max) * limits[kind]
    if not max(abs(float(array.max())), abs(float(array.min()))) <= most:
      raise errors.ConfigError(
        'export.gguf_type',
        f'{name} has values beyond {most:g}, the largest of {kind.name}',
        legal='F32, BF16',
      )
  return result


def fields(
  config: family.Config, weight_type: str, metadata: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns all metadata of a file by key, but general.architecture.

  Args:
    config: the model.
    weight_type: the type of matrices, of FILE_TYPES.
    metadata: of the tokenizer, and general.name.
  """
  chosen = families.of(config)
  return {
    'general.type': 'model',
    'general.license': chosen.license,
    'general.size_label': size_label(config.parameter_count),
    **metadata,
    **{
      f'{chosen.gguf_architecture}.{key}': value
      for key, value in chosen.config_to_gguf(config).items()
    },
    'general.quantization_version': gguf.GGML_QUANT_VERSION,
    'general.file_type': FILE_TYPES[weight_type],
  }


def _add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)


def size_label(count: int) -> str:
  """Returns a number of parameters as published files write it: 270M, 4.3B."""
  for limit, letter in ((1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if count >= limit:
      number = count / limit
      return f'{number:.1f}{letter}' if number < 10 else f'{number:.0f}{letter}'
  return str(count)
