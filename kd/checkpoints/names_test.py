import gguf
import jax
import numpy as np

from kd.checkpoints import names
from kd.config import variants
from kd.models import gemma3
from kd.models import gemma3_config


def _config(variant):
  return gemma3_config.from_variant(variant, variants.VARIANTS, 'variant')


def test_table_covers_the_parameter_tree_of_every_variant():
  for variant in variants.VARIANTS:
    config = _config(variant)
    found = {}
    for t in names.tensors(config):
      groups = 0 if t.group is None else 1
      shape = (config.scan_groups,) * groups + t.shape
      assert found.setdefault(t.path, shape) == shape
    module = gemma3.build(config, 'float32', 'none', 'student')
    boxes = jax.tree_util.tree_leaves_with_path(
      gemma3.abstract_params(module), is_leaf=lambda x: hasattr(x, 'value')
    )
    wanted = {
      tuple(key.key for key in path): box.value.shape for path, box in boxes
    }
    assert found == wanted, variant


def test_gguf_names_are_those_of_the_gguf_package():
  config = _config('1b')
  package = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_layers)
  for t in names.tensors(config):
    assert package.get_name(t.hf, try_suffixes=('.weight',)) == t.gguf


def test_layers_are_where_the_model_runs_them():
  config = _config('4b')  # 5 groups of 6, and 4 that are left
  assert names.location(config, 29) == (('pattern', 'layer_5'), 4)
  assert names.location(config, 30) == (('remainder', 'layer_0'), None)


def test_heads_are_rows_of_the_file():
  config = _config('tiny')
  by_leaf = {t.path[-1]: t for t in reversed(names.tensors(config))}
  width, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
  random = np.random.default_rng(0)
  query = random.normal(size=(width, heads, head_dim)).astype(np.float32)
  file = by_leaf['query'].to_file(query, names.HF)
  for d, n, h in ((0, 0, 0), (5, 1, 3), (127, 3, 31)):
    assert file[n * head_dim + h, d] == query[d, n, h]
  out = random.normal(size=(heads, head_dim, width)).astype(np.float32)
  file = by_leaf['out'].to_file(out, names.HF)
  for n, h, d in ((0, 0, 0), (1, 3, 5), (3, 31, 127)):
    assert file[d, n * head_dim + h] == out[n, h, d]
  for t in by_leaf.values():
    array = random.normal(size=t.shape).astype(np.float32)
    back = t.from_file(t.to_file(array, names.HF), names.HF)
    np.testing.assert_array_equal(back, array)


def test_only_gguf_norms_hold_one_more():
  for t in names.tensors(_config('nano')):
    array = np.full(t.shape, 0.25, np.float32)
    difference = t.to_file(array, names.GGUF) - t.to_file(array, names.HF)
    assert np.unique(difference) == (1.0 if len(t.shape) == 1 else 0.0)
    back = t.from_file(t.to_file(array, names.GGUF), names.GGUF)
    np.testing.assert_array_equal(back, array)
