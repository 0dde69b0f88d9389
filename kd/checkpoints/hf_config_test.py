import json

import pytest

from kd.checkpoints import hf_config
from kd.core import errors
from kd.models import families

# The published config.json of 1B.
_OFFICIAL_1B = dict(
  architectures=['Gemma3ForCausalLM'],
  attention_bias=False,
  attention_dropout=0.0,
  attn_logit_softcapping=None,
  bos_token_id=2,
  cache_implementation='hybrid',
  eos_token_id=[1, 106],
  final_logit_softcapping=None,
  head_dim=256,
  hidden_activation='gelu_pytorch_tanh',
  hidden_size=1152,
  initializer_range=0.02,
  intermediate_size=6912,
  max_position_embeddings=32768,
  model_type='gemma3_text',
  num_attention_heads=4,
  num_hidden_layers=26,
  num_key_value_heads=1,
  pad_token_id=0,
  query_pre_attn_scalar=256,
  rms_norm_eps=1e-06,
  rope_local_base_freq=10000,
  rope_scaling=None,
  rope_theta=1000000,
  sliding_window=512,
  sliding_window_pattern=6,
  torch_dtype='bfloat16',
  transformers_version='4.50.0.dev0',
  use_cache=True,
  vocab_size=262144,
)
# Those of 4B and 27B: text settings are nested, without defaults.
_OFFICIAL_4B = dict(
  model_type='gemma3',
  eos_token_id=[1, 106],
  text_config=dict(
    hidden_size=2560,
    intermediate_size=10240,
    model_type='gemma3_text',
    num_hidden_layers=34,
    sliding_window=1024,
    rope_scaling=dict(factor=8.0, rope_type='linear'),
  ),
  vision_config=dict(hidden_size=1152),
)
_TEXT_27B = dict(
  hidden_size=5376,
  intermediate_size=21504,
  num_hidden_layers=62,
  num_attention_heads=32,
  num_key_value_heads=16,
  head_dim=128,
  query_pre_attn_scalar=168,
  sliding_window=1024,
  rope_scaling=dict(factor=8.0, rope_type='linear'),
)


def _read(values, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(values))
  return hf_config.read(str(tmp_path))


def _variant(name):
  return families.variant(name, 'variant')


def _without(values, *keys):
  return {k: v for k, v in values.items() if k not in keys}


def _nested_rope(**full):
  return dict(
    sliding_attention=dict(rope_type='default', rope_theta=10000.0),
    full_attention=dict(rope_type='default', rope_theta=1000000.0) | full,
  )


def test_published_files_match_the_variants(tmp_path):
  assert _read(_OFFICIAL_1B, tmp_path) == _variant('1b')
  assert _read(_OFFICIAL_4B, tmp_path) == _variant('4b')
  large = _OFFICIAL_4B | dict(text_config=_TEXT_27B)
  assert _read(large, tmp_path) == _variant('27b')


def test_old_flat_and_new_nested_rope_are_the_same(tmp_path):
  old = _OFFICIAL_1B | dict(rope_scaling=dict(rope_type='linear', factor=8.0))
  keys = ('rope_theta', 'rope_scaling', 'rope_local_base_freq')
  new = _without(old, *keys)
  new['rope_parameters'] = _nested_rope(rope_type='linear', factor=8.0)
  assert _read(new, tmp_path) == _read(old, tmp_path)
  assert _read(new, tmp_path).global_rope_factor == 8.0
  assert _read(_OFFICIAL_1B, tmp_path).global_rope_factor == 1.0
  with pytest.raises(errors.ConfigError, match='rope_theta: missing'):
    _read(_without(old, *keys), tmp_path)
  with pytest.raises(errors.ConfigError, match='rope_parameters.*8.0'):
    _read(old | dict(rope_parameters=_nested_rope()), tmp_path)


def test_layer_types_take_precedence_over_pattern_and_variant(tmp_path):
  small = _OFFICIAL_1B | dict(num_hidden_layers=4)
  listed = ['full_attention', 'sliding_attention'] * 2
  found = _read(small | dict(layer_types=listed), tmp_path).layer_kinds
  assert found == ('global', 'local', 'global', 'local')
  found = _read(small | dict(sliding_window_pattern=2), tmp_path).layer_kinds
  assert found == ('local', 'global', 'local', 'global')
  unsaid = _without(_OFFICIAL_1B, 'sliding_window_pattern')
  kinds = _read(unsaid, tmp_path).layer_kinds
  assert [i for i, k in enumerate(kinds) if k == 'global'] == [5, 11, 17, 23]


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(model_type='gemma2'), 'model_type.*gemma2.*gemma3'),
    (dict(final_logit_softcapping=30.0), 'final_logit_softcapping.*30'),
    (dict(attn_logit_softcapping=50.0), 'attn_logit_softcapping.*50'),
    (dict(hidden_activation='gelu'), 'hidden_activation.*tanh'),
    (dict(tie_word_embeddings=False), 'tie_word_embeddings'),
    (dict(layer_types=['full_attention']), 'layer_types.*1 entries.*26'),
    (dict(num_key_value_heads=3), 'num_key_value_heads.*3'),
    (dict(hidden_size=None), 'hidden_size: missing'),
    (dict(hidden_size=-1), 'hidden_size.*-1'),
    (dict(sliding_window='512'), 'sliding_window.*512'),
    (dict(rope_scaling=dict(rope_type='yarn', factor=2.0)), 'yarn'),
    # JSON of the wrong type, or too large for any model.
    (dict(rope_scaling='linear'), "rope_scaling: found 'linear'"),
    (dict(rope_scaling=[]), 'rope_scaling: found'),
    (dict(rope_scaling=dict(rope_type=[[]], factor=2)), 'rope_scaling: found'),
    (dict(rope_parameters='default'), "rope_parameters: found 'default'"),
    (dict(layer_types=5), 'layer_types: found 5; legal: a list'),
    (dict(layer_types=[{}] * 26), "layer_types: unknown type '{}'"),
    (dict(model_type=['gemma3_text']), 'model_type: unknown'),
    (dict(model_type='gemma3', text_config=0), 'text_config: found 0'),
    (dict(num_hidden_layers=10**12), 'num_hidden_layers: found 10000000'),
    (dict(hidden_size=10**400), 'hidden_size: found 1000'),
    (dict(vocab_size=1e300), 'vocab_size: found 1e'),
    (dict(rms_norm_eps=True), 'rms_norm_eps: found True'),
    (dict(hidden_activation=list(range(10**5))), 'hidden_activation: found'),
  ],
)
def test_settings_that_gemma3_lacks_are_refused(changes, message, tmp_path):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    _read(_OFFICIAL_1B | changes, tmp_path)
  assert len(str(caught.value)) < len(str(tmp_path)) + 300


def test_missing_and_damaged_files_are_named(tmp_path):
  with pytest.raises(errors.ConfigError, match='config.json: no such file'):
    hf_config.read(str(tmp_path))
  (tmp_path / 'config.json').write_text('{\n"a": 1,\n}')
  with pytest.raises(errors.ConfigError, match='config.json:3'):
    hf_config.read(str(tmp_path))


def test_saved_configs_equal_the_official_ones():
  ours = hf_config.to_dict(_variant('1b'), 'bfloat16', 2, [1, 106], 0)
  # Default cache of transformers, and the version that wrote the file.
  odd = ('cache_implementation', 'transformers_version')
  theirs = _without(_OFFICIAL_1B, *odd)
  assert {k: v for k, v in ours.items() if k in theirs} == theirs
  added = set(ours) - set(theirs)
  assert added == {
    'layer_types',
    'rope_parameters',
    'tie_word_embeddings',
    'use_bidirectional_attention',
  }
  assert ours['tie_word_embeddings'] is True


def test_saving_a_loaded_config_twice_is_byte_equal(tmp_path):
  for name in families.variants():
    config = _variant(name)
    config = config.keep_layers(range(1, config.num_layers, 2))
    texts = []
    for _ in range(2):
      values = hf_config.to_dict(config, 'float32', 2, [1, 106], 0)
      texts.append(hf_config.to_json(values))
      (tmp_path / 'config.json').write_text(texts[-1])
      assert hf_config.read(str(tmp_path)) == config
      config = hf_config.read(str(tmp_path))
    assert texts[0] == texts[1]
