"""Tests a small random model with images against transformers."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kd.checkpoints import huggingface
from kd.checkpoints import mmproj
from kd.checkpoints import weights
from kd.core import types
from kd.models import families
from kd.models.attention import attention
from kd.models.gemma3 import vision
from kd.models.vision import tower as tower_lib
from tests.oracles import client

_IMAGE, _START, _END = 282, 280, 281
_T = 4
# The window is shorter than an image, so it excludes the first image tokens.
_CONFIG = {
  'text_config': dict(
    vocab_size=283,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    query_pre_attn_scalar=16,
    sliding_window=3,
    max_position_embeddings=4096,
  ),
  'vision_config': dict(
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=2,
    num_hidden_layers=3,
    image_size=24,
    patch_size=6,
    vision_use_head=False,
  ),
  'mm_tokens_per_image': _T,
  'image_token_index': _IMAGE,
  'image_token_id': _IMAGE,
  'boi_token_index': _START,
  'eoi_token_index': _END,
}
_KEYS = (
  'embeddings.patch_embedding.weight',
  'embeddings.position_embedding.weight',
  'layers.1.self_attn.k_proj.weight',
  'layers.2.mlp.fc1.bias',
  'post_layernorm.weight',
  'mm_input_projection_weight',
  'mm_soft_emb_norm.weight',
)
_RNG = np.random.default_rng(0)
_PICTURE = [_START, *[_IMAGE] * _T, _END]


def _text(count):
  return _RNG.integers(0, 280, count).tolist()


# Images at the start, at the end, in the middle, and two in a row.
_TEXTS = {
  'first': _PICTURE + _text(9),
  'last': _text(6) + _PICTURE[:-1],
  'two': _text(3) + _PICTURE + _PICTURE + _text(5) + _PICTURE + _text(2),
}
_COUNTS = {'first': 1, 'last': 1, 'two': 3}


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  """The case, the input arrays, and the arrays returned by transformers."""
  folder = tmp_path_factory.mktemp('vision')
  given = {}
  for name, ids in _TEXTS.items():
    given[name] = np.array(ids, np.int32)
    shape = (_COUNTS[name], 24, 24, 3)
    given[f'{name}.pixels'] = _RNG.integers(0, 256, shape, np.uint8)
  weights_ = _RNG.normal(size=(len(_TEXTS['two']), 283)) / 50
  given['two.weights'] = weights_.astype(np.float32)
  case = dict(
    config=_CONFIG,
    directory=str(folder / 'written'),
    published=str(folder / 'published'),
    texts=list(_TEXTS),
    gradients=['two'],
    keys=_KEYS,
    image_id=_IMAGE,
  )
  _, arrays = client.run('vision', 'make', case, given, folder / 'oracle')
  return case, given, arrays


def _load(directory):
  init = f'hf:{directory}'
  config = weights.model_config(init, 'student.init', with_vision=True)
  model = families.build(config, 'float32', 'none', 'student')
  return model, weights.load(init, model, None, (), 'float32', 'student.init')


def _index(ids, first=0):
  """Returns the index of types.Images for one text."""
  is_image = np.array(ids) == _IMAGE
  return np.where(is_image, np.cumsum(is_image) - 1 + first * _T, -1)


def _batch(tokens, positions, segment_ids, pixels, index):
  row = lambda x: np.array(x, np.int32)[None]
  return types.Batch(
    tokens=row(tokens),
    targets=row(tokens),
    positions=row(positions),
    segment_ids=row(segment_ids),
    parts=row(tokens) * 0,
    weights=np.ones((1, len(tokens)), np.float32),
    row_id=np.zeros(1, np.int32),
    images=types.Images(pixels[None], row(index)),
  )


def _alone(ids, pixels):
  count = len(ids)
  return _batch(ids, range(count), [1] * count, pixels, _index(ids))


def _logits(model, params, batch):
  hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
  return (hidden @ params['embedding'].T)[0]


@pytest.mark.parametrize('layout', ['directory', 'published'])
def test_logits_equal_transformers_in_both_layouts(layout, oracle):
  case, given, arrays = oracle
  model, params = _load(case[layout])
  for name, ids in _TEXTS.items():
    batch = _alone(ids, given[f'{name}.pixels'])
    ours = np.asarray(_logits(model, params, batch))
    reference = arrays[f'{name}.logits']
    assert reference.std() > 0.5
    assert np.abs(ours - reference).max() < 1e-3, name


# The tower's 16 patches in one block, or in several with a padded last block.
@pytest.mark.parametrize('queries', [512, 6])
def test_gradients_of_the_tower_equal_transformers(
  queries, oracle, monkeypatch
):
  monkeypatch.setattr(tower_lib, '_QUERIES', queries)
  case, given, arrays = oracle
  model, params = _load(case['directory'])
  batch = _alone(_TEXTS['two'], given['two.pixels'])

  def total(tower):
    logits = _logits(model, params | {'vision': tower}, batch)
    return jnp.sum(logits * given['two.weights'])

  gradient = {'vision': jax.grad(total)(params['vision'])}
  tensors = vision.tensors(model.config.vision, model.config.embed_dim)
  for key in _KEYS:
    (tensor,) = [t for t in tensors if t.hf.endswith(key)]
    leaf = gradient
    for name in tensor.path:
      leaf = leaf[name]
    leaf = np.asarray(leaf if tensor.group is None else leaf[tensor.group])
    reference = arrays[f'two.{key}']
    ours = tensor.to_file(leaf, 'hf')
    assert np.abs(reference).max() > 1e-2, key
    assert np.abs(ours - reference).max() < 1e-4, key


def test_packed_rows_equal_separate_texts_in_slices_and_blocks(
  oracle, monkeypatch
):
  case, given, arrays = oracle
  model, params = _load(case['directory'])
  names = ['last', 'two', 'first']
  ids, positions, segments, index, first = [], [], [], [], 0
  for number, name in enumerate(names, 1):
    ids += _TEXTS[name]
    positions += range(len(_TEXTS[name]))
    segments += [number] * len(_TEXTS[name])
    index += _index(_TEXTS[name], first).tolist()
    first += _COUNTS[name]
  pixels = np.concatenate([given[f'{name}.pixels'] for name in names])
  # Add padding and an unused image.
  pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
  pad = [0] * 5
  batch = _batch(
    ids + pad, positions + pad, segments + pad, pixels, index + [-1] * 5
  )
  for smallest, short, block in ((7, 1024, 512), (64, 8, 5)):
    monkeypatch.setattr(attention, '_SMALLEST_SLICE', smallest)
    monkeypatch.setattr(attention, '_SLICES', 100)
    monkeypatch.setattr(attention, '_SHORT', short)
    monkeypatch.setattr(attention, '_BLOCK', block)
    logits = np.asarray(_logits(model, params, batch))
    for number, name in enumerate(names, 1):
      at = [i for i, s in enumerate(segments) if s == number]
      difference = logits[at] - arrays[f'{name}.logits']
      assert np.abs(difference).max() < 1e-3, (smallest, name)


def test_prefill_and_decoding_equal_the_whole_row(oracle):
  case, given, arrays = oracle
  model, params = _load(case['directory'])
  ids, known = np.array(_TEXTS['two'], np.int32)[None], 26
  held = model.decoding_weights(params)
  prompt, cache = model.prefill(
    params,
    ids[:, :known],
    np.array([known], np.int32),
    types.Images(
      given['two.pixels'][None], _index(_TEXTS['two'])[None, :known]
    ),
  )
  reference = arrays['two.logits']
  logits = np.asarray(prompt[0] @ params['embedding'].T)
  assert np.abs(logits - reference[:known]).max() < 1e-3
  grown = jax.tree.map(
    lambda x: (
      jnp.pad(x, ((0, 0), (0, 8), (0, 0), (0, 0))) if x.shape[1] == known else x
    ),
    cache,
  )
  for place in range(known, ids.shape[1]):
    hidden, grown = model.extend(
      held, grown, ids[:, place], np.array([place], np.int32)
    )
    ours = np.asarray(hidden[0] @ params['embedding'].T)
    assert np.abs(ours - reference[place]).max() < 1e-3, place


def test_transformers_loads_an_exported_folder(oracle, tmp_path):
  case, given, arrays = oracle
  model, params = _load(case['published'])
  folder = str(tmp_path / 'exported')
  huggingface.write(
    folder,
    params,
    model.config,
    'float32',
    2,
    (1,),
    0,
    lambda new: None,
    image_ids=(_START, _IMAGE, _END),
  )
  results, again = client.run(
    'vision',
    'logits',
    dict(directory=folder, texts=list(_TEXTS), image_id=_IMAGE),
    given,
    tmp_path / 'oracle',
  )
  assert results == {'missing_keys': [], 'unexpected_keys': []}
  for name in _TEXTS:
    difference = again[f'{name}.logits'] - arrays[f'{name}.logits']
    assert np.abs(difference).max() < 1e-5, name


@pytest.mark.parametrize('kind', ['F32', 'F16', 'BF16'])
def test_mmproj_files_contain_the_tower_under_gguf_names(
  kind, oracle, tmp_path
):
  case, _, _ = oracle
  model, params = _load(case['published'])
  path = tmp_path / 'mmproj.gguf'
  mmproj.write(str(path), params, model.config, kind, 'small')
  reader = gguf.GGUFReader(path)
  stored = safetensors.numpy.load_file(f'{case["published"]}/model.safetensors')
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 3)
  expected = {}
  for key, array in stored.items():
    if not key.startswith('language_model'):
      key = key.replace('projection_weight', 'projection.weight')
      name = names.get_name(key, try_suffixes=('.weight', '.bias'))
      shift = 1 if 'soft_emb_norm' in key else 0
      expected[name] = array + np.float32(shift)
  read = {t.name: t for t in reader.tensors}
  assert set(read) == set(expected)
  exact = ('embd', 'norm', 'bias', 'ln') if kind != 'F32' else ('',)
  for name, array in expected.items():
    values = gguf.dequantize(read[name].data, read[name].tensor_type)
    # GGUF stores dimensions in reverse order.
    assert tuple(read[name].shape[::-1]) == array.shape, name
    is_exact = any(part in name for part in exact)
    most = 0 if is_exact else np.abs(array).max() / 2**8
    assert np.abs(values.reshape(array.shape) - array).max() <= most, name
  fields = {k: f.contents() for k, f in reader.fields.items()}
  of_tower = {
    k: v for k, v in fields.items() if k.startswith(('clip.', 'general.a'))
  }
  # 16 patches and 4 soft tokens: squares of 2, while llama.cpp's default is 4.
  assert of_tower == {
    'general.architecture': 'clip',
    'clip.has_vision_encoder': True,
    'clip.projector_type': 'gemma3',
    'clip.use_gelu': True,
    'clip.vision.image_size': 24,
    'clip.vision.patch_size': 6,
    'clip.vision.embedding_length': 24,
    'clip.vision.feed_forward_length': 40,
    'clip.vision.block_count': 3,
    'clip.vision.attention.head_count': 2,
    'clip.vision.attention.layer_norm_epsilon': pytest.approx(1e-6),
    'clip.vision.projection_dim': 32,
    'clip.vision.image_mean': [0.5] * 3,
    'clip.vision.image_std': [0.5] * 3,
    'clip.vision.projector.scale_factor': 2,
  }
