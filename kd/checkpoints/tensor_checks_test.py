import time
import types

import numpy as np
import pytest

from kd.checkpoints import tensor_checks
from kd.core import errors
from kd.models import families
from kd.models import tensors as tensors_lib


def _source(shapes, config, layout=tensors_lib.HF):
  return types.SimpleNamespace(
    layout=layout, file='/m/gemma', config=config, shapes=shapes
  )


@pytest.mark.parametrize('layout', [tensors_lib.HF, tensors_lib.GGUF])
def test_a_27b_model_with_wrong_names_is_refused_quickly(layout):
  config = families.variant('27b', 'variant')
  shapes = {
    f'_wrapped.{t.name(layout)}': t.file_shape
    for t in families.of(config).tensors(config)
  }
  start = time.process_time()
  with pytest.raises(errors.ConfigError) as caught:
    tensor_checks.check_shapes(_source(shapes, config, layout))
  assert time.process_time() - start < 1
  text = str(caught.value)
  assert '808 are missing' in text and '808 are not part of the model' in text
  assert 'nearest: ' in text
  assert len(text) < 1000


def test_finite_arrays_of_any_shape_pass():
  for shape in ((), (0,), (3, 0), (2**20 + 1,), (5, 7, 11)):
    tensor_checks.check_finite(np.ones(shape, np.float32), 'x')
  most = np.float32(np.finfo(np.float32).max)
  tensor_checks.check_finite(np.array([most, -most]), 'x')
  with pytest.raises(errors.ConfigError, match='f: t: 1 of 1 values.*1e'):
    tensor_checks.check_finite(np.array([1e300]), 'f: t')


def test_nonfinite_values_beyond_the_first_chunk_are_detected():
  array = np.zeros((3, 2**20), np.float32)
  array[2, 5] = np.nan
  with pytest.raises(errors.ConfigError, match=r'first at \[2, 5\]: nan'):
    tensor_checks.check_finite(array, 'f: t')
