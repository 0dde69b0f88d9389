"""Beam's DirectRunner writes what processes of this machine write.

Beam's environment is one of its own (docs/data.md, "Apache Beam").
"""

import json
import os
import pathlib
import subprocess

import pytest

from kd.core import errors
from kd.input_pipeline import shard_cases
from kd.input_pipeline import shards

_SCRIPT = """
import json, sys
from kd.core import errors
from kd.input_pipeline import shard_cases
where, argument = sys.argv[1:]
args = {'backend': 'beam', 'beam_args': (argument,)}
print(shard_cases.prepared(where + '/good', **args).folder)
try:
  shard_cases.prepared(where + '/bad', long='refuse', length=30, **args)
except errors.ConfigError as e:
  print(e)
"""


@pytest.fixture(autouse=True)
def _shards(monkeypatch):
  monkeypatch.setattr(shards, 'CHARACTERS', shards.CHARACTERS)


def test_the_direct_runner_writes_the_same_bytes(tmp_path):
  python = os.environ.get('KD_BEAM_PYTHON')
  if not python:
    pytest.skip('KD_BEAM_PYTHON names no Python with apache_beam')
  out = subprocess.check_output(
    [python, '-c', _SCRIPT, tmp_path, '--runner=DirectRunner'], text=True
  )
  folder, message = out.splitlines()
  own = shard_cases.prepared(tmp_path / 'own')
  assert len(own.counts['shards']) > 4
  assert shard_cases.files(folder) == shard_cases.files(own.folder)
  manifests = [
    json.loads((pathlib.Path(x) / 'manifest.json').read_text())
    for x in (folder, own.folder)
  ]
  assert manifests[0]['parts'] == manifests[1]['parts']
  assert "found 'refuse', and example 'arithmetic-train-" in message
  assert not os.listdir(tmp_path / 'bad')


def test_errors_without_beam_name_the_environment(tmp_path):
  with pytest.raises(errors.ConfigError, match='data.backend: .*apache_beam'):
    shard_cases.prepared(tmp_path, backend='beam')
