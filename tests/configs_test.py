"""Tests that every config in configs/ resolves and its step can be traced."""

import glob
import json
import math
import os
import struct

import jax
import ml_collections
import numpy as np
import pytest

from experiments.other_tokenizer import train_tokenizer
from kd.checkpoints import hf_config
from kd.checkpoints import weights
from kd.config import base
from kd.config import command_line
from kd.core import errors
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models import tensors as tensors_lib
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import programs
from kd.pruning import importance
from kd.pruning import scores as scores_lib
from kd.pruning import sizes as sizes_lib
from kd.run import model_sizes
from kd.run import resolve
from kd.run import saved_params
from kd.train import describe
from kd.train import update
from kd.train.feeds import abstract

NOT_RUNS = ('__init__.py',)
FILES = sorted(
  f
  for f in glob.glob('configs/*.py') + glob.glob('experiments/*/config*.py')
  if os.path.basename(f) not in NOT_RUNS and not f.endswith('_test.py')
)


def _weightless(folder, variant):
  """Writes a model's folder as check mode reads it: headers and a tokenizer."""
  sizes = families.variant(variant, '')
  tokenizer = tokenizers.load('bytes')
  values = hf_config.to_dict(sizes, 'bfloat16', 2, (1, 5), 0)
  (folder / hf_config.FILE).write_text(hf_config.to_json(values))
  (folder / sentencepiece_models.MODEL_FILE).write_bytes(tokenizer.model_proto)
  _write_header(folder / 'model.safetensors', sizes)
  return f'hf:{folder}'


def _write_header(file, sizes):
  """Writes tensors of zeros as a sparse file."""
  header, end = {}, 0
  for tensor in families.of(sizes).tensors(sizes):
    begin, end = end, end + 2 * math.prod(tensor.file_shape)
    header[tensor.name(tensors_lib.HF)] = {
      'dtype': 'BF16',
      'shape': tensor.file_shape,
      'data_offsets': [begin, end],
    }
  text = json.dumps(header).encode()
  with open(file, 'wb') as f:
    f.write(struct.pack('<Q', len(text)) + text)
    f.truncate(f.tell() + end)


def _load(file, folder):
  with open(file, encoding='utf-8') as f:
    text = f.read()
  argument = ''
  if 'def get_config(arg' in text:
    argument = f':{_weightless(folder, "270m")}'
  elif 'def get_config(tokenizer' in text:
    model = folder / 'tokenizer.model'
    model.write_bytes(train_tokenizer.train())
    argument = f':{model}'
  config = command_line.load(file + argument)
  config.mesh = base.get_config().mesh  # This machine has one device.
  if sizes_lib.request(config.student.prune):
    config.student.prune.scores = _scores(config.teacher.init, folder)
  return config


def _scores(init, folder):
  """Writes importance scores for the model `init`; returns the file's path."""
  config = weights.model_config(init, '')
  shapes = importance.shapes(config)
  sums = {name: np.ones(shape) for name, shape in shapes.items()}
  path = str(folder / scores_lib.FILE)
  scores_lib.write(path, scores_lib.from_sums(config, sums, {}))
  return path


def _trace(run):
  """Returns the shapes of an update's result."""
  step = update.make(
    run.student.module,
    run.objective,
    run.optimizer,
    run.learning_rate,
    run.config.optimizer.micro_batches,
  )
  state = jax.eval_shape(
    lambda p: update.init_state(p, run.objective, run.optimizer, 0),
    saved_params.abstract(run.student),
  )
  batch = abstract.batch(run, run.mesh)
  # The targets of a cache depend on its files.
  targets = programs.targets(run) if run.teacher_models else None
  with rules.active(run.mesh):
    return state, *jax.eval_shape(jax.jit(step), state, batch, targets)


@pytest.mark.parametrize('file', FILES)
def test_configs_resolve_and_trace(file, tmp_path):
  run = resolve.resolve(_load(file, tmp_path), jax.devices()[:1])
  before, after, out = _trace(run)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert all(jax.tree.leaves(jax.tree.map(same, before, after)))
  assert out.sums.keys() == {term.key for term in run.objective.terms}


def _quickstart(**changes):
  config = command_line.load('configs/quickstart.py')
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(
  'path,value,words',
  [
    ('steps', 0, ('steps', '1 or more')),
    ('data.batch_size', -4, ('data.batch_size', '1 to')),
    ('data.length', 2048, ('data.length', '2048', 'up to 1024')),
    ('data.template', 'gemini', ('data.template', "'gemma'")),
    ('data.tokenizer', 'byte', ('data.tokenizer', "'bytes'")),
    ('data.examples', 0, ('data.examples',)),
    (
      'data.rationale.drop_fraction',
      -1.0,
      ('data.rationale.drop_fraction', 'at most 1'),
    ),
    ('reasoning.keep', 'vote', ('reasoning.keep', "'voted'")),
    ('reasoning.top_p', 0.0, ('reasoning.top_p', 'above 0 and at most 1')),
    (
      'reasoning.question_format',
      'Q:',
      ('reasoning.question_format', "'{question}'"),
    ),
    (
      'optimizer.micro_batches',
      3,
      ('data.batch_size', '3 micro-batches', 'multiple of 3'),
    ),
    ('optimizer.micro_batches', 0, ('optimizer.micro_batches', '1 to')),
    ('optimizer.lr.warmup_steps', 800, ('optimizer.lr.warmup_steps', '800')),
    ('student.variant', 'nono', ('student.variant', "'nano'")),
    ('student.variant', '1b', ('no error: sizes are free',)),
    ('student.init', 'hf:/nowhere', ('/nowhere',)),
    ('student.init', 'huggingface:x', ('student.init', 'hf:DIR')),
    ('student.init', 'workdir:/nowhere', ('student.init', '/nowhere')),
    ('student.keep_layers', (0, 2), ('student.keep_layers', 'random')),
    ('student.dtype', 'float16', ('student.dtype', 'bfloat16')),
    ('student.remat', 'blok', ('student.remat', "'block'")),
    ('student.attention', 'slash', ('student.attention', "'splash'")),
    (
      'student.attention',
      'splash',
      ('student.attention', 'TPUs', "'auto', 'xla'"),
    ),
    ('teacher.attention', 'cudnn', ('teacher.attention', 'GPUs', "'xla'")),
    ('optimizer.state_memory', 'ram', ('optimizer.state_memory', 'host')),
    (
      'optimizer.state_memory',
      'host',
      ('optimizer.state_memory', 'CPUs', "'device'"),
    ),
    ('mesh.sequence', 2, ('mesh', 'sequence 2', '1 devices')),
    ('teacher.init', 'random', ('teacher.init', 'hf:DIR')),
    ('teacher.variant', '1b', ('teacher.variant', 'embed_dim')),
    ('teacher.source', 'none', ('losses.kl', 'teacher')),
    ('teacher.source', 'lve', ('teacher.source', "'live'")),
    ('teacher.source', 'on_policy', ('data.pack', 'found True', 'False')),
    ('losses.kl.part', 'sampled', ('losses.kl.part', "source='on_policy'")),
    ('rollout.fraction', 1.5, ('rollout.fraction', 'found 1.5', 'at most 1')),
    ('rollout.fraction', 0, ('rollout.fraction', 'not 0 throughout')),
    ('rollout.buffer', 8, ('rollout.buffer', 'rollout.every is 1')),
    ('rollout.every', 2, ('rollout.buffer', 'rollout.every is 2')),
    ('seed', -1, ('seed', 'found -1', '0 to 4294967295')),
    ('rollout.every', 0, ('rollout.every', '1 or more')),
    ('rollout.top_p', 0.0, ('rollout.top_p', 'above 0')),
    ('teacher.devices', 1, ('teacher.devices', 'found 1, of 1 devices')),
    ('teacher.mesh.tensor', 2, ('teacher.mesh', 'product is 1')),
    ('processes.index', -2, ('processes.index', 'found -2')),
    ('processes.dead_after_s', 0.0, ('processes.dead_after_s', 'above 0')),
    ('checkpoint.keep', 0, ('checkpoint.keep', '1 or more')),
    ('search.problem', 'game25', ('search.problem', "'game24'")),
    ('search.method', 'bfs', ('search.method', "'beam', 'depth_first'")),
    ('search.evaluator', 'exakt', ('search.evaluator', "'exact'")),
    ('search.breadth', 0, ('search.breadth', '1 to')),
    ('search.max_calls', -1, ('search.max_calls', '0 or more')),
    ('search.count', 0, ('search.count', '-1 (all)')),
    ('search.prune', 1.0, ('search.prune', 'below 1')),
    ('search.shots', 9, ('search.shots', '0 to 3')),
    ('search.top_p', 0.0, ('search.top_p', 'above 0')),
    ('evaluation.every', -1, ('evaluation.every', '0 or more')),
    (
      'evaluation.sets.held_out.examples',
      -2,
      ('evaluation.sets.held_out.examples',),
    ),
  ],
)
def test_conflicting_fields_are_refused_with_their_path(path, value, words):
  config = _quickstart(**{path: value})
  if words[0].startswith('no error'):
    resolve.resolve(config, jax.devices()[:1])
    return
  with pytest.raises(errors.ConfigError) as e:
    resolve.resolve(config, jax.devices()[:1])
  assert all(word in str(e.value) for word in words), str(e.value)


def test_indivisible_row_lengths_are_refused():
  """The mesh of four devices is abstract, since the check computes nothing."""
  config = _quickstart(
    **{'mesh.sequence': 4, 'mesh.fsdp': 1, 'data.length': 250}
  )
  run = lambda: resolve.shapes(config, _four, model_sizes.source_config)
  with pytest.raises(errors.ConfigError, match='data.length.*250.*4 devices'):
    run()
  config.data.length = 248
  assert rules.length_shards(run().mesh) == 4


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('mesh.pipeline_micro_batches', 3, ('3', '2 stages', '0 or 2, 4')),
    ('data.batch_size', 6, ('6', 'mesh.pipeline', 'multiple of 4')),
    ('teacher.variant', 'tiny', ('mesh.pipeline', '1 periods of layers')),
    ('student.quantize.activation_range', 'running', ("'position'",)),
  ],
)
def test_settings_without_pipeline_support_are_refused(field, value, words):
  changes = {
    'mesh.pipeline': 2,
    'mesh.fsdp': 2,
    'data.batch_size': 8,
    'student.variant': 'qwen3_tiny',
    'teacher.variant': 'qwen3_tiny',
    'student.quantize.activations': 'int8',
  }
  config = _quickstart(**changes)
  sizes = lambda spec, path, _: families.variant(spec['variant'], path)
  run = lambda: resolve.shapes(config, _four, sizes)
  assert run().mesh.shape['pipeline'] == 2
  config.update_from_flattened_dict({field: value})
  with pytest.raises(errors.ConfigError) as e:
    run()
  words = (*words, field if field != 'teacher.variant' else 'teacher')
  assert all(word in str(e.value) for word in words), str(e.value)


def _four(sizes, *_):
  shape = mesh_lib.resolve(sizes, 4)
  return jax.sharding.AbstractMesh(
    tuple(shape.values()),
    tuple(shape),
    abstract_device=jax.sharding.AbstractDevice('TPU', None, 'tpu'),
  )


def test_keep_layers_out_of_range_or_order_are_refused():
  for layers in ((0, 6), (3, 1), (-1,)):
    config = _quickstart(
      **{
        'student.init': 'teacher',
        'student.variant': '',
        'student.keep_layers': layers,
      }
    )
    with pytest.raises(errors.ConfigError, match='student.keep_layers'):
      resolve.resolve(config, jax.devices()[:1])


def test_warnings_propose_layers_and_a_template(tmp_path):
  config = _load('configs/gemma3_270m_gsm8k.py', tmp_path)
  (tmp_path / 'chat_template.jinja').write_text('<start_of_turn>')
  config.student.keep_layers = tuple(range(1, 18, 2))
  run = resolve.resolve(config, jax.devices()[:1])
  *_, kinds, template = describe.describe_run(run, str(tmp_path)).splitlines()
  assert kinds.startswith('warning: student: layer kinds llgllgllg ')
  assert "keep_layers='(0, 2, 4, 6, 8, 11, 12, 14, 16)'" in kinds
  assert template.startswith("warning: teacher.init: data.template is 'plain'")
  assert template.endswith('--config.data.template=gemma')


def test_another_tokenizer_is_refused_by_its_first_id(tmp_path):
  from sentencepiece import sentencepiece_model_pb2

  tokenizer = tokenizers.load('bytes')
  proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_proto)
  proto.pieces[4].piece = '<start_of_tern>'
  where = _weightless(tmp_path, 'nano')
  (tmp_path / sentencepiece_models.MODEL_FILE).write_bytes(
    proto.SerializeToString()
  )
  config = _quickstart(**{'student.init': where, 'student.variant': ''})
  with pytest.raises(errors.ConfigError) as e:
    resolve.resolve(config, jax.devices()[:1])
  for word in ('student.init', 'teacher.init', 'id 4', '<start_of_tern>'):
    assert word in str(e.value)


def test_parts_with_free_keys_are_checked():
  config = _quickstart()
  config.losses.kl.temprature = 1.0
  with pytest.raises(errors.ConfigError, match='losses.kl.temprature'):
    resolve.resolve(config, jax.devices()[:1])
  config = _quickstart()
  config.evaluation.sets.held_out = ml_collections.ConfigDict({'split': 'x'})
  with pytest.raises(errors.ConfigError, match='evaluation.sets.held_out'):
    resolve.resolve(config, jax.devices()[:1])
  config = _quickstart()
  config.optimizer.b1 = 1
  with pytest.raises(errors.ConfigError, match='optimizer.b1'):
    resolve.resolve(config, jax.devices()[:1])
