"""Parameters with the values of quantized files, for tests."""

import gguf
from gguf import quants
import jax
import numpy as np

from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import tensors


def as_gguf(
  model: family.Model, params: types.PyTree, name: str
) -> types.PyTree:
  """Returns the parameters as stored in a GGUF file of a type."""
  kind = gguf.GGMLQuantizationType[name.upper()]
  config, expected = model.config, jax.tree.map(np.array, params)
  for tensor in families.of(config).tensors(config):
    if not (tensor.layer_matrix or tensor.is_table):
      continue
    leaf = tensors.leaf(expected, tensor.path)
    at = () if tensor.group is None else (tensor.group,)
    file = np.ascontiguousarray(tensor.to_file(leaf[at], tensors.GGUF))
    values = quants.dequantize(quants.quantize(file, kind), kind)
    leaf[at] = tensor.from_file(values, tensors.GGUF)
  return expected
