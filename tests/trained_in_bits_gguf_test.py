"""Tests that a GGUF contains the rounded values that a student trained with."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.checkpoints import gguf_writer
from kd.checkpoints import weights
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.quantization import quantized_model
from kd.quantization import rules

_CONFIG = dataclasses.replace(
  families.variant('tiny', 'variant'), vocab_size=40
)


@pytest.mark.parametrize('kind', ['Q4_0', 'Q8_0'])
def test_files_contain_the_weights_of_the_forward_pass(kind, tmp_path):
  """Rounded and unrounded parameters yield the same bits."""
  table = gguf_writer.embedding_type('auto', kind)
  fields = {'weights': kind.lower(), 'tables': table.lower(), 'rules': {}}
  module = quantized_model.FakeQuantizedModel(
    families.build(_CONFIG, 'float32', 'none', 'student'),
    rules.scheme_of(_CONFIG, fields, 'student.quantize'),
  )
  random = np.random.default_rng(0)
  draw = lambda x: random.normal(size=x.shape).astype(np.float32)
  trained = jax.tree.map(draw, module.abstract_params())
  rounded = jax.device_get(module.plain_params(trained))
  changed = jax.tree.map(lambda a, b: (a != b).mean() > 0.5, trained, rounded)
  assert sum(jax.tree.leaves(changed)) > 5
  path = str(tmp_path / 'a.gguf')
  tokens = {gguf_writer.TOKENS: [str(i) for i in range(_CONFIG.vocab_size)]}
  for params in (rounded, trained):
    gguf_writer.write(path, params, _CONFIG, kind, table, tokens)
    read = jax.device_get(
      weights.load(
        f'gguf:{path}', module.core, None, (), 'float32', 'student.init'
      )
    )
    for t in families.of(_CONFIG).tensors(_CONFIG):
      if t.file_shape[1:]:  # Norms are 1 + w in the file and rounded again.
        np.testing.assert_array_equal(
          tensors_lib.leaf(read, t.path), tensors_lib.leaf(rounded, t.path)
        )
