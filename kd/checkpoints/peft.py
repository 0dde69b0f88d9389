"""Writes adapters as a folder for peft and vLLM.

peft only warns about names whose prefix does not match the class of the base
model, and ignores them. Therefore the prefix is derived from the base's
config.json.
"""

from collections.abc import Callable, Mapping, Sequence
import os

import jax
import numpy as np

from kd.checkpoints import gather
from kd.checkpoints import hf_config
from kd.core import atomic_files
from kd.core import buckets
from kd.core import json_files
from kd.core import tensor_files
from kd.core import types
from kd.models import families
from kd.models import lora
from kd.models import tensors as tensors_lib

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'


def write(
  folder: str,
  params: types.PyTree,
  model: lora.LoraModel,
  base: str,
  write_more: Callable[[str], None],
) -> None:
  """Writes the adapters of a model; all processes must call this.

  Args:
    folder: path of the folder; replaced if it exists.
    params: parameters of the model.
    model: the model.
    base: Hugging Face folder of the base model.
    write_more: called last with the new folder.

  Raises:
    ConfigError: the base's config.json is missing or not a JSON object.
  """
  pairs = {}
  for tensor in families.of(model.config).tensors(model.config):
    if tensor.layer_matrix in model.targets:
      name = tensor.hf.removeprefix('model.').removesuffix('.weight')
      pairs[name] = _pair(params, tensor, model.rank)
  if jax.process_index():  # The base may exist only on process 0.
    return
  config = json_files.read(os.path.join(base, hf_config.FILE))
  module = families.of(model.config).hf_text_module(config['model_type'])
  arrays = {
    f'base_model.model.{module}.{name}.{kind}.weight': array
    for name, pair in pairs.items()
    for kind, array in pair.items()
  }
  with atomic_files.replaced_folder(folder) as new:
    path = os.path.join(new, WEIGHTS_FILE)
    tensor_files.save(path, arrays, {'format': 'pt'})
    config = hf_config.to_json(_config(model, module, base))
    atomic_files.write_text(os.path.join(new, CONFIG_FILE), config)
    write_more(new)


def _pair(params, tensor, rank) -> Mapping[str, np.ndarray]:
  """Returns A as [R, inputs] and B as [outputs, R], float32."""
  adapted = tensors_lib.leaf(params, tensor.path)
  a, b = (gather.on_host(adapted[key]) for key in (lora.A, lora.B))
  if tensor.group is not None:
    a, b = a[tensor.group], b[tensor.group]
  return {
    'lora_A': np.ascontiguousarray(a.reshape(-1, rank).T),
    'lora_B': np.ascontiguousarray(b.reshape(rank, -1).T),
  }


def _config(model, module, base):
  """Returns adapter_config.json."""
  targets: Sequence[str] | str = list(model.targets)
  if module != 'model':
    # A vision tower has matrices with the same names.
    names = '|'.join(model.targets)
    targets = rf'{module.replace(".", "[.]")}[.]layers[.].*[.]({names})'
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': buckets.remote(base),
    'r': model.rank,
    'lora_alpha': model.alpha,
    'use_rslora': model.is_rank_stabilized,
    'lora_dropout': 0.0,
    'target_modules': targets,
    'bias': 'none',
    'inference_mode': True,
  }
