import gguf
import jax
import numpy as np
import pytest

from kd.models import families
from kd.models import layer_stack
from kd.models import tensors as tensors_lib


def _config(variant):
  return families.variant(variant, 'variant')


def test_table_covers_the_parameter_tree_of_every_variant():
  for variant in families.variants():
    config = _config(variant)
    found = {}
    for t in families.of(config).tensors(config):
      groups = 0 if t.group is None else 1
      shape = (config.scan_groups,) * groups + t.shape
      assert found.setdefault(t.path, shape) == shape
    module = families.build(config, 'float32', 'none', 'student')
    leaves = jax.tree_util.tree_leaves_with_path(module.abstract_params())
    wanted = {
      tuple(key.key for key in path): leaf.shape for path, leaf in leaves
    }
    assert found == wanted, variant


@pytest.mark.parametrize(
  'variant, architecture',
  [
    ('1b', gguf.MODEL_ARCH.GEMMA3),
    ('qwen3_0_6b', gguf.MODEL_ARCH.QWEN3),
    ('qwen3_8b', gguf.MODEL_ARCH.QWEN3),
  ],
)
def test_gguf_names_equal_the_gguf_packages(variant, architecture):
  config = _config(variant)
  package = gguf.get_tensor_name_map(architecture, config.num_layers)
  for t in families.of(config).tensors(config):
    assert package.get_name(t.hf, try_suffixes=('.weight',)) == t.gguf


def test_locations_of_layers_in_the_parameters():
  config = _config('4b')  # 5 groups of 6, and 4 that are left
  assert layer_stack.location(config, 29) == (('pattern', 'layer_5'), 4)
  assert layer_stack.location(config, 30) == (('remainder', 'layer_0'), None)


def test_heads_are_rows_of_the_file():
  config = _config('tiny')
  by_leaf = {
    t.path[-1]: t for t in reversed(families.of(config).tensors(config))
  }
  width, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
  random = np.random.default_rng(0)
  query = random.normal(size=(width, heads, head_dim)).astype(np.float32)
  file = by_leaf['query'].to_file(query, tensors_lib.HF)
  for d, n, h in ((0, 0, 0), (5, 1, 3), (127, 3, 31)):
    assert file[n * head_dim + h, d] == query[d, n, h]
  out = random.normal(size=(heads, head_dim, width)).astype(np.float32)
  file = by_leaf['out'].to_file(out, tensors_lib.HF)
  for n, h, d in ((0, 0, 0), (1, 3, 5), (3, 31, 127)):
    assert file[d, n * head_dim + h] == out[n, h, d]
  for t in by_leaf.values():
    array = random.normal(size=t.shape).astype(np.float32)
    back = t.from_file(t.to_file(array, tensors_lib.HF), tensors_lib.HF)
    np.testing.assert_array_equal(back, array)


def test_only_norms_in_gguf_are_offset_by_one():
  for t in families.of(_config('nano')).tensors(_config('nano')):
    array = np.full(t.shape, 0.25, np.float32)
    difference = t.to_file(array, tensors_lib.GGUF) - t.to_file(
      array, tensors_lib.HF
    )
    assert np.unique(difference) == (1.0 if len(t.shape) == 1 else 0.0)
    back = t.from_file(t.to_file(array, tensors_lib.GGUF), tensors_lib.GGUF)
    np.testing.assert_array_equal(back, array)
