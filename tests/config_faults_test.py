"""Tests that the error of a wrong config names the field."""

import os
import random
import re
import textwrap

import jax
import ml_collections
import pytest

from kd.config import base
from kd.config import command_line
from kd.config import legal
from kd.config import overrides
from kd.config import rules
from kd.config import schema
from kd.core import errors
from kd.modes import check as check_mode
from kd.run import resolve
from tests import refused_configs


def _changed(change, file='configs/quickstart.py'):
  config = command_line.load(file)
  exec(textwrap.dedent(change), {'c': config, 'base': base})
  return config


@pytest.fixture
def nothing_registered(monkeypatch):
  """Removes all registered tasks, as in a new process."""
  import seqio

  for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
    monkeypatch.setattr(registry, '_REGISTRY', {})


def _assert_refused(config, field, workdir):
  with pytest.raises(errors.ConfigError) as e:
    check_mode.main(config, str(workdir))
  assert field in ('', e.value.path), str(e.value)
  assert len(str(e.value)) < 700
  assert not os.path.isdir(workdir)


@pytest.mark.parametrize('change, field', refused_configs.CHANGES)
def test_invalid_fields_are_refused_by_name(change, field, tmp_path):
  _assert_refused(_changed(change), field, tmp_path / 'run')


@pytest.mark.parametrize('module', refused_configs.MODULES)
def test_modules_without_tasks(module, tmp_path, nothing_registered):
  config = _quickstart()
  config.data.module = module
  _assert_refused(config, 'data.module', tmp_path / 'run')


@pytest.mark.parametrize('file, change, field', refused_configs.OF_OTHERS)
def test_invalid_fields_of_other_configs_are_refused_by_name(
  file, change, field, tmp_path
):
  _assert_refused(_changed(change, file), field, tmp_path / 'run')


def test_configs_without_fields_are_refused(tmp_path):
  _assert_refused(ml_collections.ConfigDict(), '', tmp_path / 'run')


@pytest.mark.parametrize('workdir', refused_configs.WORKDIRS)
def test_workdirs_without_write_access_are_refused(workdir):
  _assert_refused(_quickstart(), '--workdir', workdir)


_CHANGE = """from kd.config import base
def get_config():
  c = base.get_config()
  {}
  return c
"""


@pytest.mark.parametrize(
  'text, words',
  [
    ('def get_config():\n  return 5\n', 'ConfigDict'),
    ('def get_config():\n  raise SystemExit\n', 'SystemExit'),
    ('x = \n', ':1: SyntaxError'),
    ('\n\nraise ValueError("no")\n', ':3: ValueError: no'),
    ('x = 1\n', 'get_config'),
    (_CHANGE.format('c.teacher.share = 1.0'), ":4: .*mean 'weight'"),
    (_CHANGE.format('c.rollout.update(share=1.0)'), ":4: .*mean 'fraction'"),
    (_CHANGE.format('c.data.lenght = 9'), ":4: .*mean 'length'"),
  ],
)
def test_failing_config_files_are_named_with_their_line(text, words, tmp_path):
  file = tmp_path / 'c.py'
  file.write_text(text)
  with pytest.raises(errors.ConfigError) as e:
    command_line.load(str(file))
  assert str(file) in str(e.value) and re.search(words, str(e.value))


def test_former_names_are_refused_with_the_current_ones():
  """This includes entries and parts that are built separately."""
  for change, new in (
    ("c.objective.positions = base.positions('all', share=1.0)", 'fraction'),
    ('c.teacher.others = dict(a=base.other_teacher(share=2.0))', 'weight'),
  ):
    with pytest.raises(errors.ConfigError, match=f"did you mean '{new}'"):
      base.checked(_changed(change))


def test_unexpected_arguments_of_get_config_are_refused():
  with pytest.raises(errors.ConfigError, match='too many positional'):
    command_line.load('configs/quickstart.py:foo')


def _overridden(*arguments, file='configs/quickstart.py'):
  _, changes = command_line._split(arguments, 'config')
  config = overrides.apply(command_line.load(file), changes)
  return base.checked(config)


def test_names_set_their_defaults_in_any_order_of_flags():
  config = _overridden(
    '--config.losses.kl.beta=0.25',
    '--config.losses.kl.temperature=2',
    '--config.losses.kl.name=jensen_shannon',
    '--config.optimizer.lr.name=constant',
    '--config.optimizer.name=adafactor',
    '--config.cache.method.name=sampled',
    '--config.losses.kl.weight.end=0',
    '--config.losses.kl.weight.begin=1',
    '--config.losses.kl.weight.first_step=0',
    '--config.losses.kl.weight.last_step=9',
    '--config.losses.kl.weight.name=linear',
  )
  kl = config.losses.kl
  assert (kl.name, kl.beta, kl.temperature) == ('jensen_shannon', 0.25, 2.0)
  assert kl.weight.to_dict() == dict(
    name='linear', begin=1.0, end=0.0, first_step=0, last_step=9
  )
  schedule = dict(name='constant', peak=5e-3, warmup_steps=50)
  assert config.optimizer.lr.to_dict() == schedule
  expected = base.adafactor(config.optimizer.lr)
  assert config.optimizer.to_dict() == expected.to_dict()
  method = base.cache_method('sampled')
  assert config.cache.method.to_dict() == method.to_dict()


def test_values_are_parsed_by_the_fields_type():
  config = _overridden(
    '--config.data.pack',
    '--noconfig.log.tensorboard',
    *('--config.steps', '70'),
    '--config.student.keep_layers=0,2',
    "--config.generate.stop_strings=('a', 'b')",
    '--config.evaluation.sets={}',
  )
  assert config.data.pack is True and config.log.tensorboard is False
  assert config.steps == 70 and config.student.keep_layers == (0, 2)
  assert config.generate.stop_strings == ('a', 'b')
  assert not config.evaluation.sets


@pytest.mark.parametrize(
  'argument, words',
  [
    ('--config.steps=1.5', ('steps', 'whole number')),
    ('--config.steps=\u0661', ('steps', 'whole number')),
    ('--config.optimizer.lr.peak=nan', ('optimizer.lr.peak', 'nan')),
    ('--config.generate.stop_strings=(1,)', ('generate.stop_strings',)),
    (
      "--config.generate.stop_strings=__import__('os').abort()",
      ('generate.stop_strings',),
    ),
    ('--config.data=5', ('data', 'one of its fields')),
    ('--config.optimizer.lr.name=cosin', ('optimizer.lr.name', "'cosine'")),
    ('--config.losses.kl.beta=1', ('losses.kl.beta', 'no field')),
    ('--config.search.together=3', ("did you mean 'concurrency'",)),
    ('--config.teacher.share=3', ("did you mean 'weight'",)),
    ('--config.objective.positions.share=1', ("did you mean 'fraction'",)),
    ('--config.teacher.source=rollout', ("did you mean 'on_policy'",)),
  ],
)
def test_wrong_flags_are_refused(argument, words):
  with pytest.raises(errors.ConfigError) as e:
    _overridden(argument)
  assert all(word in str(e.value) for word in words), str(e.value)


_VALUES = (
  *(float('nan'), float('inf'), -float('inf'), -1, -1.0, 0, 0.0, 2, 0.5),
  *(2**31, 2**32, 2**63, 10**400, 1e308, 1e-300, True, None, '', 'x', '\0'),
  *('\ud800', 'gs://b/x', 'x' * 5000, (), ('a',), (1.5,), ((),), [None]),
  *({}, {'name': 5}, {'name': 'linear'}, {1: 2}, object(), b'x', 1j),
)


def test_mutated_configs_are_valid_or_refused_by_field():
  """Tries every field with every value, then random changes."""
  draw = _draw()
  paths = [path for _, path, _ in schema.leaves(base.ROOT, base.get_config())]
  sections = sorted({p.rpartition('.')[0] for p in paths} - {''})
  cases = [(path, value) for path in paths for value in _VALUES]
  draw.shuffle(cases)
  for path, value in cases[:1500]:
    _mutate({path: value})
  for path in (*paths, *sections):
    _mutate({path: _DELETED})
  for _ in range(300):
    chosen = draw.sample((*paths, *sections), 2)
    _mutate({path: draw.choice((*_VALUES, _DELETED)) for path in chosen})


def test_valid_fields_resolve_or_are_refused_by_field():
  """Legal fields are also resolved to models, losses, devices and tokenizer."""
  draw, built = _draw(), 0
  paths = [path for _, path, _ in schema.leaves(base.ROOT, _quickstart())]
  while built < 25:
    path, value = draw.choice(paths), draw.choice(_VALUES)
    config = _quickstart()
    try:
      config.update_from_flattened_dict({path: value})
      config = base.checked(config)
      rules.check(config)
    except (errors.ConfigError, TypeError, ValueError, OverflowError):
      continue
    built += 1
    try:
      resolve.resolve(config, jax.devices()[:1])
    except errors.ConfigError as e:
      section = path.rpartition('.')[0]
      assert _names(e, path) or e.path == section, (path, value, str(e))


def _quickstart():
  return command_line.load('configs/quickstart.py')


def _draw():
  """Returns a generator; prints its seed, which $KD_FUZZ_SEED can repeat."""
  seed = int(os.environ.get('KD_FUZZ_SEED', random.randrange(2**32)))
  print(f'KD_FUZZ_SEED={seed}')
  return random.Random(seed)


_DELETED = object()


def _mutate(changes):
  config = base.get_config().unlock()
  for path, value in changes.items():
    *parents, last = path.split('.')
    holder = config
    for key in parents:
      if not schema.is_part(holder) or key not in holder:
        return
      holder = holder[key]
    if not schema.is_part(holder):
      return
    if value is _DELETED:
      if last in holder:
        del holder[last]
    else:
      try:
        holder[last] = value
      except (TypeError, ValueError, OverflowError):
        return  # Refused by ConfigDict; in a file the error has a line number.
  try:
    config = base.checked(config)
    rules.check(config)
  except errors.ConfigError as e:
    text = str(e)
    assert any(_names(e, path) for path in changes), (changes, text)
    assert text.encode('utf-8', 'backslashreplace') and len(text) < 1500
    return
  for field, path, value in schema.leaves(base.ROOT, config):
    if not schema.is_part(value):
      assert not field.legal.fault(value), path


def _names(error, changed):
  """Returns whether an error is about a changed field or a field within it."""
  parent, _, last = changed.rpartition('.')
  if last == 'name':  # Another name needs other arguments.
    changed = parent
  if error.path == 'losses' and parent == 'losses':
    return True  # The only term was deleted.
  if error.path == changed or error.path.startswith(f'{changed}.'):
    return True
  # For fields that contradict each other, the path names one, the text both.
  return re.search(rf'(?<![\w.]){re.escape(changed)}(?!\w)', str(error))


def test_errors_name_the_changed_field():
  for path, value in (('data.length', 10**400), ('log.every', float('nan'))):
    config = base.get_config()
    config.update_from_flattened_dict({path: value})
    with pytest.raises(errors.ConfigError) as e:
      base.checked(config)
    assert e.value.path == path and len(str(e.value)) < 200


def test_limits_hold_in_float32_and_float64():
  assert legal.Number(above=0).fault(1e-60)
  assert legal.Number(below=1).fault(1 - 1e-12)
  assert not legal.Number(above=0, below=1).fault(0.5)
  closed = legal.Number(at_least=0, at_most=1)
  for value in (-1e-60, 1 + 1e-12):
    assert closed.fault(value)
    assert closed.holds(value)  # Schedules are computed in float32.
  assert not closed.fault(0) and not closed.fault(1.0)
