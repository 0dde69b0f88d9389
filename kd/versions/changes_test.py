"""Tests the commands of a registry."""

import hashlib
import json
import os

import pytest

from kd.config import base
from kd.core import errors
from kd.core import identity
from kd.versions import changes
from kd.versions import journal
from kd.versions import listing
from kd.versions import version_cases


class _Registry:
  """A registry in a folder, and models to add to it."""

  def __init__(self, folder):
    self.inputs, self.folder = folder / 'in', str(folder / 'registry')
    self.inputs.mkdir()
    self.settings = base.get_config().registry
    self.said = []

  def export(self, name, **config):
    return version_cases.export(self.inputs / name, **config)

  def report(self, verdict):
    return version_cases.report(self.inputs, verdict)

  def add(self, model, verdict=''):
    report = self.report(verdict) if verdict else ''
    changes.add(self.folder, model, report, self.said.append)

  def promote(self, name, stage='production'):
    changes.promote(self.folder, self.settings, name, stage, self.said.append)

  def rollback(self, stage='production'):
    changes.rollback(self.folder, stage, self.said.append)

  def stages(self):
    state = changes.read(self.folder)
    return {name: state.stage(name) for name in state.versions}

  def differing(self):
    return [
      line for is_true, line in listing.findings(self.folder) if not is_true
    ]


@pytest.fixture
def registry(tmp_path):
  return _Registry(tmp_path)


@pytest.fixture
def two(registry):
  """Version v1 in production, v2 a candidate."""
  registry.add(registry.export('a'), 'ship')
  registry.promote('v1')
  registry.add(registry.export('b'), 'ship')
  return registry


def test_versions_contain_the_exported_files(registry):
  model = registry.export('a')
  registry.add(model, 'ship')
  (version,) = changes.read(registry.folder).versions.values()
  assert version.init(registry.folder) == f'hf:{registry.folder}/versions/v1'
  there = version.folder(registry.folder)
  assert sorted(os.listdir(there)) == sorted(os.listdir(model))
  for name, file in version.files.items():
    with open(os.path.join(model, name), 'rb') as f:
      data = f.read()
    digest = hashlib.sha256(data).hexdigest()
    assert file == {'bytes': len(data), 'sha256': digest}
  # An edit of the export does not change the version.
  with open(os.path.join(model, 'config.json'), 'a') as f:
    f.write(' ')
  assert not registry.differing()
  assert not registry.differing()
  edited = registry.export('b')
  with open(os.path.join(edited, 'config.json'), 'a') as f:
    f.write(' ')
  for folder in (model, edited):
    with pytest.raises(errors.ConfigError, match='changed since the export'):
      registry.add(folder)
  os.unlink(os.path.join(model, 'config.json'))
  with pytest.raises(errors.ConfigError, match=r'config\.json: is missing'):
    registry.add(model)
  os.unlink(os.path.join(model, 'provenance.json'))
  with pytest.raises(errors.ConfigError, match=r'no provenance\.json'):
    registry.add(model)
  assert os.listdir(os.path.join(registry.folder, 'versions')) == ['v1']


def test_promotions_and_rollbacks_change_stages(two):
  assert two.stages() == {'v1': 'production', 'v2': 'candidate'}
  two.promote('v2', 'canary')
  two.promote('v2', 'canary')
  assert two.said[-1].endswith('no change')
  assert two.stages() == {'v1': 'production', 'v2': 'canary'}
  two.promote('v2')
  assert two.stages() == {'v1': 'candidate', 'v2': 'production'}
  assert changes.read(two.folder).fallback == 'v1'
  assert 'candidate (fallback)' in '\n'.join(listing.table(two.folder))
  two.rollback()
  assert two.stages() == {'v1': 'production', 'v2': 'candidate'}
  with pytest.raises(errors.ConfigError, match='was in production before v1'):
    two.rollback()
  two.promote('v2', 'canary')
  two.rollback('canary')
  assert two.stages() == {'v1': 'production', 'v2': 'candidate'}
  with pytest.raises(errors.ConfigError, match='no version is in stage canary'):
    two.rollback('canary')
  check = changes.read(two.folder).versions['v2'].check
  assert check['verdict'] == 'ship' and check['compared_with'] == 'v1'
  assert check['compatible'] == [
    *('tokenizer', 'template', 'context', 'images')
  ]


def test_a_promotion_needs_a_verdict(registry):
  model = registry.export('a')
  registry.add(model)
  with pytest.raises(errors.ConfigError, match='v1 has no benchmark report'):
    registry.promote('v1')
  registry.add(model, 'worse')  # A report of the existing version.
  assert list(changes.read(registry.folder).versions) == ['v1']
  with pytest.raises(errors.ConfigError, match="v1 is 'worse'; legal: ship"):
    registry.promote('v1')
  with registry.settings.unlocked():
    registry.settings.admit = ('ship', 'worse')
  registry.promote('v1')
  with open(registry.report('ship'), 'w') as f:
    json.dump({'verdict': 'good'}, f)
  with pytest.raises(errors.ConfigError, match="verdict: found 'good'"):
    changes.add(registry.folder, model, f.name, print)


def test_promotions_must_be_compatible_with_the_running_version(two):
  short = two.export('c', max_position_embeddings=256)
  two.add(short, 'ship')
  with pytest.raises(errors.ConfigError, match='v3 cannot replace v1.*context'):
    two.promote('v3')
  jinja = os.path.join(two.export('d'), 'chat_template.jinja')
  with open(jinja, 'w') as f:
    f.write('{{ messages }}')
  _claim(jinja)
  two.add(os.path.dirname(jinja), 'ship')
  with pytest.raises(errors.ConfigError, match='its template is .* not'):
    two.promote('v4', 'canary')
  with two.settings.unlocked():
    two.settings.compatible = ('tokenizer', 'context')
  two.promote('v4', 'canary')


def _claim(path):
  """Adds a file to its folder's provenance."""
  claims = os.path.join(os.path.dirname(path), 'provenance.json')
  with open(claims) as f:
    value = json.load(f)
  digest = identity.file_digest(path)
  value['files'][os.path.basename(path)] = {'bytes': 0, 'sha256': digest}
  with open(claims, 'w') as f:
    json.dump(value, f)


def test_damage_is_found_and_never_promoted(two):
  two.promote('v2')
  weights = os.path.join(two.folder, 'versions', 'v1', 'model.safetensors')
  with open(weights, 'r+b') as f:
    f.seek(-1, os.SEEK_END)
    f.write(b'x')
  (line,) = two.differing()
  assert line.startswith(f'{weights}: its digest is')
  with pytest.raises(errors.ConfigError, match='changed since they were'):
    two.rollback()
  with pytest.raises(errors.ConfigError, match='changed since they were'):
    two.promote('v1', 'canary')
  assert two.stages() == {'v1': 'candidate', 'v2': 'production'}
  path = os.path.join(two.folder, journal.FILE)
  with open(path) as f:
    lines = f.readlines()
  for changed in (
    [lines[0].replace('ship', 'shop'), *lines[1:]],
    [*lines[:-1], lines[-1].replace('v1', 'v2')],
    lines[1:],
    [*lines[:2], *lines[3:]],
  ):
    with open(path, 'w') as f:
      f.writelines(changed)
    with pytest.raises(errors.ConfigError, match=rf'{path}:\d: (was|does)'):
      changes.read(two.folder)


def test_reports_must_be_about_the_model(registry):
  model = registry.export('a')
  with open(os.path.join(model, 'provenance.json')) as f:
    weights = json.load(f)['student']['weights']
  path = registry.report('ship')

  def add(*benchmarked):
    with open(path, 'w') as f:
      fields = {'verdict': 'ship', 'weights': {'model': benchmarked}}
      json.dump(fields, f)
    changes.add(registry.folder, model, path, print)

  with pytest.raises(errors.ConfigError, match=f'weights: found ff.*{weights}'):
    add('ff')
  assert not changes.read(registry.folder).versions
  add(None, 'ff')  # Not known of all seeds.
  add('ff', weights)
  with pytest.raises(errors.ConfigError, match='weights: found'):
    add('fe')


def test_files_of_others_are_kept(registry):
  own = []
  for name in ('reports/2026.md', 'versions/v1/notes', 'reports/12ab.json'):
    own.append(os.path.join(registry.folder, name))
    os.makedirs(os.path.dirname(own[-1]), exist_ok=True)
    with open(own[-1], 'w') as f:
      f.write('mine')
  model = registry.export('a')
  changes.prune(registry.folder, 0, print)
  with pytest.raises(errors.ConfigError, match='exists and is not a version'):
    registry.add(model)
  os.rename(os.path.dirname(own[1]), registry.inputs / 'away')
  registry.add(model)
  changes.prune(registry.folder, 0, print)
  assert os.path.exists(own[0]) and not os.path.exists(own[2])


def test_reports_of_admitted_versions_are_kept(registry):
  model = registry.export('a')
  registry.add(model, 'ship')
  registry.promote('v1')
  registry.add(model, 'worse')
  changes.prune(registry.folder, 0, print)
  check = changes.read(registry.folder).versions['v1'].check
  assert os.path.isfile(os.path.join(registry.folder, check['report']))


def test_prune_keeps_versions_in_use(two):
  two.promote('v2')
  for name in 'cdef':
    two.add(two.export(name))
  changes.prune(two.folder, 2, two.said.append)
  assert two.said[-1] == 'removed: v3, v4'
  kept = ['v1', 'v2', 'v5', 'v6']
  assert list(two.stages()) == kept
  versions = os.path.join(two.folder, 'versions')
  assert sorted(os.listdir(versions)) == kept
  two.add(two.export('g'))  # No name is used twice.
  assert list(two.stages()) == [*kept, 'v7']
