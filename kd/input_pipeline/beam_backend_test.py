"""Beam's DirectRunner writes what processes of this machine write.

Beam's environment is one of its own (docs/data.md, "Apache Beam").
"""

import json
import os
import pathlib
import subprocess

import pytest

from kd.core import errors
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import shards
from kd.input_pipeline import tokenizers

_SCRIPT = """
import json, sys
from kd.core import errors
from kd.input_pipeline import beam_backend_test as test
from kd.input_pipeline import shards
shards.CHARACTERS = test.CHARACTERS
where, argument = sys.argv[1:]
args = {'backend': 'beam', 'beam_args': (argument,)}
print(test.prepared(where + '/good', **args).folder)
try:
  test.prepared(where + '/bad', long='refuse', length=30, **args)
except errors.ConfigError as e:
  print(e)
"""
CHARACTERS = 500  # Of a shard here.


def prepared(folder, **changes):
  """Prepares rows of several shards."""
  arguments = dict(
    tokenizer=tokenizers.load('bytes'),
    template='plain',
    length=100,
    pack=True,
    seed=3,
    cache_dir=str(folder),
    limit=60,
    retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
    say=lambda line: None,
  )
  mixture = mixtures.task('arithmetic_few', 'kd.data.mixtures')
  (part,) = prepare.prepare(mixture, 'train', **arguments | changes)
  return part


def _files(folder):
  paths = sorted(pathlib.Path(folder).iterdir())
  return {p.name: p.read_bytes() for p in paths if p.name != 'manifest.json'}


def test_the_direct_runner_writes_the_same_bytes(tmp_path, monkeypatch):
  python = os.environ.get('KD_BEAM_PYTHON')
  if not python:
    pytest.skip('KD_BEAM_PYTHON names no Python with apache_beam')
  monkeypatch.setattr(shards, 'CHARACTERS', CHARACTERS)
  out = subprocess.check_output(
    [python, '-c', _SCRIPT, tmp_path, '--runner=DirectRunner'], text=True
  )
  folder, message = out.splitlines()
  own = prepared(tmp_path / 'own')
  assert len(own.counts['shards']) > 4
  assert _files(folder) == _files(own.folder)
  manifests = [
    json.loads((pathlib.Path(x) / 'manifest.json').read_text())
    for x in (folder, own.folder)
  ]
  assert manifests[0]['parts'] == manifests[1]['parts']
  assert "found 'refuse', and example 'arithmetic-train-" in message
  assert not os.listdir(tmp_path / 'bad')


def test_without_beam_the_environment_is_named(tmp_path):
  with pytest.raises(errors.ConfigError, match='data.backend: .*apache_beam'):
    prepared(tmp_path, backend='beam')
