"""Tests that the oracles' environment is as locked and separate from kd's."""

import importlib.util
import json
import os
import re
import subprocess

_SCRIPT = """
import importlib.metadata, json, sys
import torch, transformers, xllamacpp
versions = {d.name.lower().replace('_', '-'): d.version
            for d in importlib.metadata.distributions()}
json.dump(versions, sys.stdout)
"""


def test_the_environment_matches_its_lock():
  command = [os.environ['KD_ORACLES_PYTHON'], '-c', _SCRIPT]
  installed = json.loads(subprocess.check_output(command))
  locked = {}
  for name in ('requirements_oracles.lock', 'requirements_torch.in'):
    with open(name, encoding='utf-8') as f:
      locked.update(re.findall(r'^([a-z0-9-]+)==([^\s\\]+)', f.read(), re.M))
  assert len(locked) > 40
  # A local build has a suffix after a plus sign: 2.13.0+cpu.
  assert locked == {n: installed[n].split('+')[0] for n in locked}


def test_product_environment_has_no_torch():
  assert importlib.util.find_spec('jax')
  for name in ('torch', 'transformers', 'xllamacpp'):
    assert importlib.util.find_spec(name) is None, name
