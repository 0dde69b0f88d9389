import os
import shutil

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kd.checkpoints import gguf_weights
from kd.checkpoints import hf_weights
from kd.checkpoints import huggingface
from kd.checkpoints import weights
from kd.core import errors
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.models.gemma3 import config as gemma3_config

# Two groups of 6 layers, and 2 that are left.
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=64,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  vocab_size=96,
  layer_kinds=gemma3_config.published_kinds(14),
  window=8,
  context=128,
  query_scale=32.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)


def _build(config=_CONFIG):
  return families.build(config, 'float32', 'none', 'student')


def _random_params():
  """Values that are exact in bfloat16, and that 1 + w doesn't round."""
  random = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: _build().init_params(jax.random.key(0)))
  return jax.tree.map(
    lambda s: (random.integers(-120, 120, s.shape) / 128).astype(np.float32),
    shapes,
  )


@pytest.fixture(scope='module')
def params():
  return _random_params()


@pytest.fixture(scope='module')
def hf_dir(params, tmp_path_factory):
  directory = str(tmp_path_factory.mktemp('hf') / 'model')
  _write_hf(directory, params)
  return directory


def _write_hf(directory, params, dtype='float32', **options):
  huggingface.write(
    directory,
    params,
    _CONFIG,
    dtype,
    2,
    [1, 106],
    0,
    lambda _: None,
    **options,
  )


@pytest.fixture
def changed(hf_dir, tmp_path):
  """A function that edits a copy's tensors and returns the copy's init."""

  def change(edit):
    directory = tmp_path / 'copy'
    shutil.copytree(hf_dir, directory)
    file = directory / hf_weights.SINGLE
    tensors = edit(safetensors.numpy.load_file(file))
    safetensors.numpy.save_file(tensors, file)
    return f'hf:{directory}'

  return change


def _write_gguf(path, params, kind=gguf.GGMLQuantizationType.F32, **split):
  config = _CONFIG
  writer = gguf.GGUFWriter(path, 'gemma3', **split)
  writer.add_block_count(config.num_layers)
  writer.add_embedding_length(config.embed_dim)
  writer.add_feed_forward_length(config.mlp_dim)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_sliding_window(config.window)
  writer.add_context_length(config.context)
  writer.add_layer_norm_rms_eps(config.norm_epsilon)
  writer.add_rope_freq_base(config.global_rope_base)
  writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
  writer.add_rope_scaling_factor(config.global_rope_factor)
  writer.add_token_list(['a', 'bc'] * 48)
  for t in families.of(config).tensors(config):
    leaf = tensors_lib.leaf(params, t.path)
    array = leaf if t.group is None else leaf[t.group]
    array = np.ascontiguousarray(t.to_file(array, tensors_lib.GGUF))
    if t.path[-1] == 'scale':
      writer.add_tensor(t.gguf, array)
    else:
      raw = gguf.quantize(array, kind)
      writer.add_tensor(t.gguf, raw, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _assert_equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_hugging_face_round_trips_are_bit_equal(hf_dir, params):
  found = weights.load(
    f'hf:{hf_dir}', _build(), None, (), 'float32', 'student.init'
  )
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(found))
  _assert_equal(found, params)
  narrow = weights.load(
    f'hf:{hf_dir}', _build(), None, (), 'bfloat16', 'teacher.init'
  )
  assert all(x.dtype == jax.numpy.bfloat16 for x in jax.tree.leaves(narrow))
  _assert_equal(
    narrow, jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), params)
  )


def test_shards_with_an_index_and_bfloat16_rounded_once(params, tmp_path):
  exact = jax.tree.map(lambda x: x + np.float32(1e-5), params)
  directory = str(tmp_path / 'model')
  _write_hf(directory, exact, 'bfloat16', file_bytes=40_000)
  files = [f for f in os.listdir(directory) if f.endswith('.safetensors')]
  assert len(files) > 3
  size = 0
  for file in files:
    arrays = safetensors.numpy.load_file(os.path.join(directory, file))
    assert all(x.dtype == ml_dtypes.bfloat16 for x in arrays.values())
    assert 'lm_head.weight' not in arrays
    size += os.path.getsize(os.path.join(directory, file))
  header_bytes = 30_000
  assert abs(size - 2 * _CONFIG.parameter_count) < header_bytes
  found = weights.load(
    f'hf:{directory}', _build(), None, (), 'float32', 'student.init'
  )
  rounded = jax.tree.map(
    lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), exact
  )
  _assert_equal(found, rounded)


def test_a_failed_write_keeps_the_existing_files(hf_dir, params, tmp_path):
  directory = tmp_path / 'model'
  shutil.copytree(hf_dir, directory)

  def fail(_):
    raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    huggingface.write(
      str(directory), params, _CONFIG, 'bfloat16', 2, [1], 0, fail
    )
  assert os.listdir(tmp_path) == ['model']
  assert sorted(os.listdir(directory)) == sorted(os.listdir(hf_dir))
  _assert_equal(
    weights.load(
      f'hf:{directory}', _build(), None, (), 'float32', 'student.init'
    ),
    params,
  )


def test_all_prefixes_load_equally_and_vision_is_counted(changed, params):
  for prefix in ('language_model.model.', 'model.language_model.', ''):

    def rename(tensors, prefix=prefix):
      renamed = {
        prefix + key.removeprefix('model.'): x for key, x in tensors.items()
      }
      home = 'model.' if prefix.startswith('model.') else ''
      renamed[f'{home}vision_tower.vision_model.post_layernorm.bias'] = (
        np.zeros(3, np.float32)
      )
      renamed['multi_modal_projector.mm_soft_emb_norm.weight'] = np.zeros(
        3, np.float32
      )
      return renamed

    init = changed(rename)
    _assert_equal(
      weights.load(init, _build(), None, (), 'float32', 'student.init'), params
    )
    directory = init.removeprefix('hf:')
    assert len(hf_weights.Source(directory).skipped) == 2
    shutil.rmtree(directory)


def test_every_wrong_tensor_is_named_with_both_shapes(changed):
  def edit(tensors):
    del tensors['model.layers.3.self_attn.q_norm.weight']
    tensors['model.layers.1.mlp.up_proj.weight'] = np.zeros((3, 5), np.float32)
    tensors['model.layers.2.self_attn.q_proj.bias'] = np.zeros(7, np.float32)
    return tensors

  init = changed(edit)
  with pytest.raises(errors.ConfigError) as e:
    weights.load(init, _build(), None, (), 'float32', 'student.init')
  text = str(e.value)
  assert '1 is missing: model.layers.3.self_attn.q_norm.weight [32]' in text
  assert 'up_proj.weight has [3, 5], expected [64, 32]' in text
  assert 'part of the model: model.layers.2.self_attn.q_proj.bias [7]' in text


def test_an_untied_output_head_is_refused(changed):
  embedding = 'model.embed_tokens.weight'
  init = changed(lambda x: x | {'lm_head.weight': x[embedding]})
  weights.load(init, _build(), None, (), 'float32', 'student.init')
  shutil.rmtree(init.removeprefix('hf:'))
  init = changed(lambda x: x | {'lm_head.weight': x[embedding] + 1})
  with pytest.raises(errors.ConfigError, match='lm_head.weight.*tied'):
    weights.load(init, _build(), None, (), 'float32', 'student.init')


def test_missing_files_are_named(hf_dir, tmp_path):
  with pytest.raises(
    errors.ConfigError, match='^student.init: /nowhere/config.json: no such'
  ):
    weights.model_config('hf:/nowhere', 'student.init')
  with pytest.raises(
    errors.ConfigError, match='^student.init: /nowhere: no such file'
  ):
    weights.model_config('gguf:/nowhere', 'student.init')
  with pytest.raises(
    errors.ConfigError, match="^student.init: found 'hg:x'.*did you mean 'hf'"
  ):
    weights.model_config('hg:x', 'student.init')
  directory = tmp_path / 'model'
  shutil.copytree(hf_dir, directory)
  file = directory / hf_weights.SINGLE
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(
    errors.ConfigError, match='^student.init: .*model.safetensors: is damaged'
  ):
    weights.load(
      f'hf:{directory}', _build(), None, (), 'float32', 'student.init'
    )


def test_gguf_loads_to_the_same_tree(params, tmp_path):
  file = str(tmp_path / 'model.gguf')
  _write_gguf(file, params)
  assert weights.model_config(f'gguf:{file}', 'student.init') == _CONFIG
  _assert_equal(
    weights.load(f'gguf:{file}', _build(), None, (), 'float32', 'student.init'),
    params,
  )
  raw = {t.name: t.data for t in gguf.GGUFReader(file).tensors}
  scale = params['pattern']['layer_4']['attention']['key_norm']['scale'][1]
  np.testing.assert_array_equal(raw['blk.10.attn_k_norm.weight'] - 1, scale)


def test_a_split_gguf_loads_as_one(params, tmp_path):
  count = len(families.of(_CONFIG).tensors(_CONFIG))
  _write_gguf(str(tmp_path / 'model.gguf'), params, split_max_tensors=count - 1)
  found = weights.load(
    *(f'gguf:{tmp_path}/model-00002-of-00002.gguf', _build(), None, ()),
    *('float32', 'student.init'),
  )
  _assert_equal(found, params)


def test_quantized_gguf_is_dequantized_in_chunks(params, tmp_path, monkeypatch):
  file = str(tmp_path / 'model.gguf')
  _write_gguf(file, params, kind=gguf.GGMLQuantizationType.Q8_0)
  monkeypatch.setattr(gguf_weights, '_PIECE_BYTES', 100)
  source = gguf_weights.Source(file)
  for t in gguf.GGUFReader(file).tensors:
    wanted = gguf.dequantize(t.data, t.tensor_type)
    np.testing.assert_array_equal(source.read(t.name), wanted)
  with open(file, 'r+b') as f:
    f.truncate(os.path.getsize(file) - 100)
  with pytest.raises(errors.ConfigError, match='tensors end at'):
    gguf_weights.Source(file)


def test_kept_layers_have_the_weights_and_kinds_of_the_teachers(hf_dir, params):
  kept = (1, 5, 6, 11, 13)
  small = _CONFIG.keep_layers(kept)
  assert small.layer_kinds == ('local', 'global', 'local', 'global', 'local')
  found = weights.load(
    f'hf:{hf_dir}', _build(small), None, kept, 'float32', 'student.init'
  )
  placed = jax.tree.map(jax.numpy.asarray, params)
  _assert_equal(weights.layers_from(placed, _CONFIG, kept), found)
  source = {t.hf: t for t in families.of(_CONFIG).tensors(_CONFIG)}
  for t in families.of(small).tensors(small):
    name = t.hf
    if t.path[0] in ('pattern', 'remainder'):
      layer = int(name.split('.')[2])
      name = name.replace(f'.{layer}.', f'.{kept[layer]}.', 1)
    a, b = (
      tensors_lib.leaf(found, t.path),
      tensors_lib.leaf(params, source[name].path),
    )
    a = a if t.group is None else a[t.group]
    b = b if source[name].group is None else b[source[name].group]
    np.testing.assert_array_equal(a, b)


def test_kept_layers_share_no_buffer_with_the_teacher(params):
  teacher = jax.tree.map(jax.numpy.asarray, params)
  student = weights.layers_from(teacher, _CONFIG, ())
  _assert_equal(student, teacher)
  jax.tree.map(lambda x: x.delete(), student)
  _assert_equal(teacher, params)


def test_wrong_keep_layers_and_models_are_refused(hf_dir):
  for kept, message in (((0, 14), 'found 14.*0 to 13'), ((3, 2), '3 before 2')):
    with pytest.raises(errors.ConfigError, match=message):
      weights.load(
        f'hf:{hf_dir}', _build(), None, kept, 'float32', 'student.init'
      )
  with pytest.raises(errors.ConfigError, match='layer_kinds is'):
    weights.load(
      f'hf:{hf_dir}', _build(), None, (0, 1), 'float32', 'student.init'
    )
