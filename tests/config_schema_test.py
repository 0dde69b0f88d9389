"""Tests that the schema's names and arguments match the code."""

from kd.benchmarking import benchmark
from kd.benchmarking import verdicts
from kd.config import base
from kd.config import legal
from kd.config import schema
from kd.input_pipeline import encoding
from kd.input_pipeline import preparation
from kd.input_pipeline import skipping


def test_schema_arguments_match_builders():
  """Builders take exactly the arguments that the schema declares."""
  from kd.config.fields import data
  from kd.config.fields import losses
  from kd.config.fields import training
  from kd.core import schedules
  from kd.losses import term_builder
  from kd.losses import terms
  from kd.optimizers import optimizers
  from kd.teachers.cache import compression

  assert term_builder.TERM_MODULES
  for choice, registry in (
    (losses.TERM, terms.TERMS),
    (schema.SCHEDULES, schedules.SCHEDULES),
    (training.OPTIMIZER, optimizers.OPTIMIZERS),
    (data.CACHE_METHOD, compression.METHODS),
  ):
    assert sorted(choice.options) == registry.names()
    for name, fields in choice.options.items():
      assert fields.keys() == registry.arguments(name).keys(), name


# Fields whose values the code compares directly, without a list of them.
_WORDS = {
  *('evaluation.params', 'evaluation.stop.direction', 'export.params'),
  *('cache.method.logprobs', 'cache.method.values'),
  *('board.direction', 'board.output', 'teacher.server.fingerprint'),
  *('evaluation.best.direction', 'export.checkpoint', 'export.dtype'),
  *('losses.map', 'losses.of', 'nonfinite', 'reasoning.keep'),
  *('deploy.scale_on', 'serve.dtype'),
  *('reasoning.model', 'reasoning.steps', 'student.dtype', 'teacher.dtype'),
  *('teacher.others.dtype', 'teacher.others.param_dtype'),
  *('teacher.memory', 'teacher.others.memory'),
  *('teacher.param_dtype', 'student.lora.base_dtype', 'teacher.source'),
}


def _named_choices(node, path=''):
  """Yields the path of each choice, without names of entries, and its names."""
  if isinstance(node, schema.Field):
    of = node.legal.item if isinstance(node.legal, legal.Tuple) else node.legal
    if hasattr(of, 'names'):
      yield path, set(of.names)
  elif isinstance(node, schema.Entries):
    yield from _named_choices(node.entry, path)
  else:
    parts = [node.children]
    if isinstance(node, schema.Choice):
      parts = [node.children(name) for name in node.options]
    for part in parts:
      for key, child in part.items():
        yield from _named_choices(child, schema.join(path, key))


def test_choices_equal_those_of_the_code():
  """Covers every field with names, including fields added later."""
  from kd.checkpoints import gguf_writer
  from kd.checkpoints import weights
  from kd.deployment import checks
  from kd.images import features
  from kd.input_pipeline import mixing
  from kd.input_pipeline import templates
  from kd.input_pipeline import tokenizers
  from kd.losses import attention_maps
  from kd.losses import chunk_likelihood
  from kd.losses import hidden_states
  from kd.losses import layer_terms
  from kd.losses import modalities
  from kd.losses import selection
  from kd.losses import terms
  from kd.metrics import trackers
  from kd.models import families
  from kd.models import layer_stack
  from kd.models.attention import attention_backend
  from kd.modes import export
  from kd.optimizers import optimizers
  from kd.pruning import selection as pruning_selection
  from kd.pruning import sizes
  from kd.quantization import schemes
  from kd.reasoning.chains import answer_kinds
  from kd.reasoning.chains import prompting
  from kd.reasoning.trees import problems
  from kd.reasoning.trees import tree_methods
  from kd.reasoning.trees import tree_search
  from kd.run import model_sizes
  from kd.run import own_tokenizer
  from kd.teachers.served import apis
  from kd.versions import compatibility
  from kd.versions import reports

  tiny = families.variant('tiny', 'variant')
  tensors = families.of(tiny).tensors(tiny)
  kinds = {'none', *schemes.SCHEMES}
  fields = ('weights', 'rules.scheme')
  models = {
    **{f'quantize.{field}': kinds for field in fields},
    'attention': attention_backend.NAMES,
    'variant': {'', *families.variants()},
    'init': {'', *model_sizes.KINDS} - {'random', 'teacher'},
    'vision': model_sizes.VISION,
    'vision_init': {'', *weights.PREFIXES},
  }
  expected = {
    **{f'teacher.{key}': names for key, names in models.items()},
    **{f'teacher.others.{key}': names for key, names in models.items()},
    **{f'student.{key}': names for key, names in models.items()},
    'student.init': model_sizes.KINDS,
    'student.vision': model_sizes.STUDENT_VISION,
    'student.remat': layer_stack.REMAT_POLICIES,
    'data.template': templates.TEMPLATES.names(),
    'teacher.template': {'', *templates.TEMPLATES.names()},
    'teacher.tokenizer': ('shared', own_tokenizer.OWN),
    'data.tokenizer': {'', *tokenizers.KINDS},
    'data.rates': mixing.UNITS,
    'data.long': encoding.LONG,
    'data.on_error': skipping.ON_ERROR,
    'data.backend': preparation.BACKENDS,
    'data.images.features': {features.NONE, *features.KINDS},
    'evaluation.metrics': (),
    'export.formats': export.FORMATS,
    'export.gguf_type': gguf_writer.FILE_TYPES,
    'export.gguf_embedding_type': {'auto', *gguf_writer.FILE_TYPES},
    'log.trackers': trackers.TRACKERS,
    'losses.part': terms.PARTS,
    'losses.kind': hidden_states.KINDS,
    'losses.divergence': chunk_likelihood.DIVERGENCES,
    'losses.distance': attention_maps.DISTANCES,
    'losses.similarity': layer_terms.SIMILARITIES,
    'losses.states': layer_terms.STATES,
    'objective.modalities.balance': modalities.BALANCES,
    'losses.heads': attention_maps.HEADS,
    'objective.positions.rule': selection.RULES,
    'optimizer.state_memory': optimizers.MEMORIES,
    'student.lora.targets': {t.layer_matrix for t in tensors} - {None},
    'student.lora.base_scheme': kinds,
    'student.quantize.tables': kinds,
    'generate.quantize.weights': kinds,
    'generate.quantize.tables': kinds,
    'student.quantize.activations': {'none', *schemes.INPUTS},
    'student.quantize.activation_range': schemes.RANGES,
    'student.prune.head_score': pruning_selection.HEAD_SCORES,
    'student.prune.layer_pattern': sizes.PATTERNS,
    'reasoning.style': prompting.STYLES,
    'reasoning.answer': answer_kinds.KINDS,
    'search.problem': problems.SOURCES,
    'search.method': tree_methods.METHODS,
    'search.evaluator': tree_search.EVALUATORS,
    'registry.admit': reports.VERDICTS,
    'benchmark.reference': benchmark.REFERENCES,
    'benchmark.fail_on': verdicts.FAILURES,
    'registry.compatible': compatibility.ALL,
    'deploy.checks': checks.NAMES,
    'search.proposals': tree_search.PROPOSALS,
    'teacher.server.api': {'auto', *apis.APIS},
  }
  paths = set()
  for path, names in _named_choices(base.ROOT):
    paths.add(path)
    if path == 'losses.part':
      names = names - {terms.IMAGE}  # Only for terms of layers.
    if path not in _WORDS:
      assert names == set(expected[path]), path
  assert paths == expected.keys() | _WORDS
