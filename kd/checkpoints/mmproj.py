"""Writes a vision tower and its projector as an mmproj file for llama.cpp."""

import gguf

from kd.checkpoints import gguf_writer
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib

_Kind = gguf.GGMLQuantizationType
_ARCHITECTURE = 'clip'


def tower_type(weight_type: str) -> str:
  """Returns the type of a tower's matrices, given that of the text model's.

  Args:
    weight_type: type of the text model's matrices.

  Returns:
    F32, BF16 or F16. The published tower has rows of 4,304 values, which is not
    a multiple of 32, so block types are used only for the text model.
  """
  return weight_type if weight_type in ('F32', 'BF16') else 'F16'


def write(
  path: str,
  params: types.PyTree,
  config: family.Config,
  weight_type: str,
  name: str,
) -> None:
  """Writes a file for llama.cpp's `--mmproj`; see gguf_writer.write.

  Args:
    path: path of the file; replaced if it exists.
    params: the parameter tree, on host or devices.
    config: the model, which has a vision tower.
    weight_type: 'F32', 'F16' or 'BF16', see tower_type.
    name: general.name.

  Raises:
    ConfigError: a value is not finite in the tensor's type.
  """
  chosen = families.of(config)
  tensors = [t for t in chosen.tensors(config) if t.is_vision]
  metadata = {
    'general.type': 'mmproj',
    'general.license': chosen.license,
    'general.name': name,
    'general.size_label': gguf_writer.size_label(
      config.vision.parameter_count(config.embed_dim)
    ),
    'general.file_type': gguf_writer.FILE_TYPES[weight_type],
    **chosen.vision_to_gguf(config),
  }
  gguf_writer.write_file(
    path,
    _ARCHITECTURE,
    metadata,
    {t.gguf: _kind(t, weight_type) for t in tensors},
    {},
    params,
    tensors,
    lambda tensor, array: tensor.to_file(array, tensors_lib.GGUF),
  )


def _kind(tensor: tensors_lib.Tensor, weight_type: str) -> _Kind:
  """Returns the type of a tensor.

  Vectors and the patch embedding stay float32. The projector's matrix is
  float16 if the others are bfloat16, as in published files.
  """
  if len(tensor.file_shape) == 1 or tensor.dims[0] in 'XP':
    return _Kind.F32
  if tensor.dims == 'ED' and weight_type == 'BF16':
    return _Kind.F16
  return _Kind[weight_type]
