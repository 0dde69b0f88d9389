"""Tests written GGUF files, read by kd and by the gguf package."""

import dataclasses
import os

import gguf
import jax
import numpy as np
import pytest

from kd.checkpoints import gguf_writer
from kd.checkpoints import weights
from kd.core import errors
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.models.gemma3 import config as gemma3_config

_CONFIG = dataclasses.replace(
  families.variant('tiny', 'variant'),
  vocab_size=24,
  layer_kinds=gemma3_config.published_kinds(8),
)
_TOKENS = {gguf_writer.TOKENS: [str(i) for i in range(20)]}


@pytest.fixture(scope='module')
def built():
  model = families.build(_CONFIG, 'float32', 'none', 'student')
  random = np.random.default_rng(0)
  draw = lambda x: random.normal(size=x.shape).astype(np.float32)
  return model, jax.tree.map(draw, model.abstract_params())


def _write(path, built, kind, **changes):
  model, params = built
  config = dataclasses.replace(model.config, **changes)
  table = gguf_writer.embedding_type('auto', kind)
  gguf_writer.write(str(path), params, config, kind, table, _TOKENS)
  return config


def _read(path):
  config = weights.model_config(f'gguf:{path}', 'file')
  model = families.build(config, 'float32', 'none', 'student')
  params = weights.load(f'gguf:{path}', model, None, (), 'float32', 'file')
  return config, params


@pytest.mark.parametrize('kind', list(gguf_writer.FILE_TYPES))
def test_files_contain_the_parameters_in_their_type(kind, built, tmp_path):
  path = tmp_path / 'a.gguf'
  config = _write(path, built, kind)
  got, params = _read(path)
  assert got == dataclasses.replace(config, vocab_size=20)
  for t in families.of(config).tensors(config):
    leaf = tensors_lib.leaf(built[1], t.path)
    array = t.to_file(leaf if t.group is None else leaf[t.group], 'gguf')
    array = np.ascontiguousarray(array[:20] if t.is_table else array)
    of_tensor = 'F32' if array.ndim == 1 else kind
    if t.is_table and kind == 'Q4_0':
      of_tensor = 'Q8_0'
    of_tensor = gguf.GGMLQuantizationType[of_tensor]
    expected = gguf.dequantize(gguf.quantize(array, of_tensor), of_tensor)
    leaf = tensors_lib.leaf(params, t.path)
    stored = t.to_file(
      np.asarray(leaf if t.group is None else leaf[t.group]), 'gguf'
    )
    np.testing.assert_array_equal(stored, expected.reshape(array.shape))
  assert (
    gguf.GGUFReader(path).fields['general.file_type'].contents()
    == {
      'F32': gguf.LlamaFileType.ALL_F32,
      'F16': gguf.LlamaFileType.MOSTLY_F16,
      'BF16': gguf.LlamaFileType.MOSTLY_BF16,
      'Q8_0': gguf.LlamaFileType.MOSTLY_Q8_0,
      'Q4_0': gguf.LlamaFileType.MOSTLY_Q4_0,
    }[kind]
  )


def test_query_scales_without_a_field_are_folded_into_a_norm(built, tmp_path):
  """llama.cpp takes the head width, and D / N for 62 layers."""
  head, width = _CONFIG.head_dim, _CONFIG.embed_dim // _CONFIG.num_heads
  path = tmp_path / 'a.gguf'
  for changes, assumed in (
    (dict(query_scale=7.0), head),
    (
      dict(query_scale=7.0, layer_kinds=('global',) * 62, head_dim=2 * head),
      width,
    ),
  ):
    model, params = built
    config = dataclasses.replace(model.config, **changes)
    if len(config.layer_kinds) == 62:
      model = families.build(config, 'float32', 'none', 'student')
      params = jax.tree.map(
        lambda x: np.full(x.shape, 0.5, np.float32), model.abstract_params()
      )
    _write(path, (model, params), 'F32', **changes)
    got, _ = _read(path)
    assert got.query_scale == assumed
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    t = next(
      t
      for t in families.of(config).tensors(config)
      if t.gguf == 'blk.1.attn_q_norm.weight'
    )
    own = 1 + tensors_lib.leaf(params, t.path)[t.group]
    # Scores are products of a query and a key, times assumed ** -0.5.
    np.testing.assert_allclose(
      tensors[t.gguf] * assumed**-0.5, own * 7.0**-0.5, rtol=1e-6
    )
    np.testing.assert_array_equal(
      tensors['blk.1.attn_k_norm.weight'].shape, own.shape
    )


@pytest.mark.parametrize(
  'kinds, expected',
  [
    ('lllllg', None),  # The default of a missing field.
    ('llglll', [True, True, False, True, True, True]),
    ('llgllgl', 3),
    ('lglg', 2),
    ('lllllll', 8),
    ('gg', None),
  ],
)
def test_the_pattern_of_layers(kinds, expected):
  names = {kind[0]: kind for kind in gemma3_config.Gemma3Config.KINDS}
  config = dataclasses.replace(
    _CONFIG, layer_kinds=tuple(names[k] for k in kinds)
  )
  fields = families.of(config).config_to_gguf(config)
  assert fields.get('attention.sliding_window_pattern') == expected
  # llama.cpp aborts on a window that no layer has.
  assert ('attention.sliding_window' in fields) == ('l' in kinds)
  read = families.of(config).config_from_gguf(
    {f'gemma3.{key}': value for key, value in fields.items()},
    {'token_embd.weight': (_CONFIG.vocab_size, _CONFIG.embed_dim)},
    'a.gguf',
  )
  window = config.window if 'l' in kinds else config.context
  assert read == dataclasses.replace(config, window=window)
  note = families.of(config).gguf_note(config)
  assert bool(note) == (expected is not None)
  assert ('do not repeat' in note) == isinstance(expected, list)


@pytest.mark.parametrize(
  'changes, kind, message',
  [
    (dict(mlp_dim=40), 'Q8_0', r'blk.0.ffn_down.weight has rows of 40 \(Q8_0'),
    (dict(embed_dim=60), 'Q4_0', 'token_embd.weight has rows of 60 .Q8_0'),
    (dict(layer_kinds=('global',) * 513), 'F32', 'has 513 layers'),
  ],
)
def test_models_that_llama_cpp_cannot_load_are_refused(changes, kind, message):
  config = dataclasses.replace(_CONFIG, **changes)
  table = gguf_writer.embedding_type('auto', kind)
  with pytest.raises(errors.ConfigError, match=message):
    gguf_writer.check(config, kind, table, 'export.gguf_type')


def test_a_value_beyond_float16_is_refused_and_no_file_is_left(built, tmp_path):
  model, params = built
  params = jax.tree.map(np.copy, params)
  params['embedding'][3, 4] = 1e5
  with pytest.raises(errors.ConfigError, match='token_embd.weight has values'):
    _write(tmp_path / 'a.gguf', (model, params), 'F16')
  assert os.listdir(tmp_path) == []
  _write(tmp_path / 'a.gguf', (model, params), 'Q8_0')
  umask = os.umask(0)
  os.umask(umask)
  mode = os.stat(tmp_path / 'a.gguf').st_mode & 0o777
  assert mode == 0o666 & ~umask
