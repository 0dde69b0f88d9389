"""Reads a model's config and dequantized tensors from a GGUF file."""

import gguf
import numpy as np

from kd.checkpoints import gguf_header
from kd.checkpoints import gguf_parts
from kd.core import errors
from kd.models import families
from kd.models import family
from kd.models import tensors

_EMBEDDING = 'token_embd.weight'

# Bytes to dequantize at a time.
_PIECE_BYTES = 16 * 2**20


class Tensors:
  """The tensors of a GGUF file, read and dequantized one at a time.

  Attributes:
    file: path of the file, or of one of its parts.
    layout: tensors.GGUF.
    metadata: metadata fields by key.
    shapes: shape of each tensor by name, outermost dimension first.
  """

  layout = tensors.GGUF

  def __init__(self, file: str):
    """Reads the header, or those of all parts if the file is split.

    Args:
      file: path of a GGUF file, or of any part of a split one.

    Raises:
      ConfigError: it is not a GGUF file, or has a tensor of a type that the
        `gguf` package cannot dequantize.
    """
    self.file = file
    header = gguf_parts.read(file, families.gguf_lists())
    self.metadata, self._tensors = header.metadata, header.tensors
    self.shapes = {name: e.shape for name, e in self._tensors.items()}
    for name, entry in self._tensors.items():
      _check_kind(f'{entry.file}: {name}', entry.kind)

  def read(self, name: str) -> np.ndarray:
    """Reads a tensor as float32, in the file's layout."""
    entry = self._tensors[name]
    rows, row_bytes = entry.byte_shape
    raw = np.memmap(entry.file, np.uint8, 'r', entry.offset, (rows, row_bytes))
    result = np.empty((rows, entry.shape[-1]), np.float32)
    step = max(1, _PIECE_BYTES // row_bytes)
    for i in range(0, rows, step):
      result[i : i + step] = gguf.dequantize(raw[i : i + step], entry.kind)
    return result.reshape(entry.shape)


class Source(Tensors):
  """The tensors of a text model's GGUF file.

  Attributes:
    config: config of the model.
    skipped: names of tensors that are not part of a text model; always empty.
  """

  skipped = ()

  def __init__(self, file: str):
    """Reads the header; see Tensors.

    Raises:
      ConfigError: also if the model is not of a known family.
    """
    super().__init__(file)
    self.config = _config(self.metadata, self.shapes, file)

  def check_head(self) -> None:
    """Does nothing: a file without an output head has a tied one."""


def read_config(header: gguf_header.Header, file: str) -> family.Config:
  """Converts a header to the model's config.

  Args:
    header: header with all tensors of the model.
    file: path of the file, for messages.

  Raises:
    ConfigError: the architecture is unknown, a field is missing, or the family
      does not support a field's value.
  """
  shapes = {name: entry.shape for name, entry in header.tensors.items()}
  return _config(header.metadata, shapes, file)


def _config(metadata, shapes, file):
  if _EMBEDDING not in shapes:
    raise errors.ConfigError(file, f'has no tensor {_EMBEDDING}')
  key = 'general.architecture'
  chosen = families.by_architecture(metadata.get(key), f'{file}: {key}')
  return chosen.config_from_gguf(metadata, shapes, file)


def _check_kind(path: str, kind: gguf.GGMLQuantizationType) -> None:
  _, size = gguf.GGML_QUANT_SIZES[kind]
  try:
    # Tries the package with one block of zeros.
    gguf.dequantize(np.zeros((1, size), np.uint8), kind)
  except NotImplementedError as e:
    raise errors.ConfigError(
      path,
      f'has type {kind.name}',
      legal='a type that the gguf package dequantizes',
    ) from e
