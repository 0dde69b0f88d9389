"""Tests the files of docs/extend.md in a folder that contains only them."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests import command

_PAGE = pathlib.Path('docs/extend.md').read_text()
_FILES = dict(re.findall(r'```python\n# (\w+\.py)\n(.*?)```', _PAGE, re.S))
_SMALL = (
  *(a for a in command.QUICK[1:] if '.mixture' not in a and '.log.e' not in a),
  *('--config.log.every=1', '--config.evaluation.baseline=False'),
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a function that runs kd in the folder, and the folder."""
  folder = tmp_path_factory.mktemp('extend')
  for name, text in _FILES.items():
    (folder / name).write_text(text)

  def run(*arguments):
    return command.run_python(arguments, cwd=str(folder))

  return run, folder


def _command():
  (text,) = re.findall(r'^```\n(kd train .*?)```', _PAGE, re.M | re.S)
  return shlex.split(text.replace('\\\n', ''))[1:]


def test_a_run_with_one_plugin_of_each_kind(run):
  run, folder = run
  code, out, err = run(*_command(), '--workdir=run', *_SMALL)
  assert code == 0, err
  lines = command.metrics(str(folder / 'run'))
  train = [x for x in lines if x['phase'] == 'train']
  # The student overfits a single batch.
  weights = {x['train/target_weight'] for x in train}
  losses = [x['train/loss/kl'] for x in train]
  assert len(weights) == 1 and losses[-1] < 0.9 * losses[0]
  held_out = [x for x in lines if 'eval/held_out/length_ratio' in x]
  assert held_out
  report = (folder / 'run' / 'report.md').read_text()
  assert 'answer / target length' in report
  recorded = json.loads((folder / 'run' / 'run.json').read_text())
  assert sorted(recorded['plugins']) == sorted(
    name.removesuffix('.py') for name in _FILES if name != 'my_config.py'
  )

  # A resumed run reports the plugin that has changed.
  text = (folder / 'my_divergence.py').read_text()
  (folder / 'my_divergence.py').write_text(text + '\n# changed\n')
  code, out, err = run('check', *_command()[1:], '--workdir=run', *_SMALL)
  (folder / 'my_divergence.py').write_text(text)
  assert code == 0, err
  assert out.count('changed since the last start: plugins.') == 1
  assert 'plugins.my_divergence' in out


# Error by flag; all are checked in one process.
_REFUSALS = {
  '--config.plugins=my_terms': [
    "plugins: there is no Python module 'my_terms'"
  ],
  '--config.plugins=broken': [
    "plugins: importing 'broken' failed: ValueError",
    '(broken.py:3)\n  File "',
    'broken.py", line 3, in <module>\n    math.sqrt(-1)',
  ],
  '--config.losses.penalty.name=confidence_penlty': [
    "losses.penalty.name: unknown loss 'confidence_penlty'",
    "did you mean 'confidence_penalty'?",
  ],
  '--config.losses.penalty.prt=all': ['losses.penalty.prt', "mean 'part'?"],
  '--config.losses.penalty.part=al': [
    *('losses.penalty.part', "did you mean 'all'?"),
  ],
  '--config.evaluation.metrics=length_ratios': ['a metric of a plugin'],
}
_TELL = """
import json, sys
from kd.config import command_line
from kd.core import errors
from kd.losses import term_builder, terms
flags = json.load(sys.stdin)
messages = {}
for flag in flags:
  path, _, value = flag.removeprefix('--config.').partition('=')
  change = command_line.overrides_lib.Override(path, value, flag)
  try:
    config = command_line.load('my_config.py')
    config = command_line.overrides_lib.apply(config, [change])
    config = command_line.base.checked(config)
    sizes = terms.Context(steps=800, student=None, teacher=1)
    term_builder.build(config.losses.to_dict(), sizes)
    messages[flag] = 'nothing'
  except errors.ConfigError as e:
    messages[flag] = str(e)
json.dump(messages, sys.stdout)
"""


def test_messages_about_wrong_plugins(run):
  _, folder = run
  (folder / 'broken.py').write_text('import math\n\nmath.sqrt(-1)\n')
  messages = _python(_TELL, list(_REFUSALS), folder)
  for flag, expected in _REFUSALS.items():
    assert all(text in messages[flag] for text in expected), messages[flag]


def _python(script, given, folder):
  """Returns the output of a script in the folder for a JSON input."""
  done = subprocess.run(
    [sys.executable, '-c', script],
    input=json.dumps(given),
    cwd=folder,
    env=command.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


_VALUES = """
import json, sys
import jax
import my_divergence, my_term
from kd.losses import terms
student, teacher = map(jax.numpy.array, json.load(sys.stdin))
log_p = jax.nn.log_softmax(teacher)
hellinger = my_divergence.hellinger(scale=2.0)
def total(logits):
  return hellinger.integrand(log_p, jax.nn.log_softmax(logits)).sum()
term = my_term.confidence_penalty(None)
inputs = terms.TokenInputs(student=student, teacher=None, labels=None)
penalty, _ = term.per_token(inputs, {})
json.dump([float(total(student)), jax.grad(total)(student).tolist(),
  float(penalty)], sys.stdout)
"""


def test_values_equal_float64_formulas(run):
  _, folder = run
  logits = np.random.default_rng(0).normal(size=(2, 7)) * 2
  value, slope, penalty = _python(_VALUES, logits.tolist(), folder)
  q, p = (np.exp(x) / np.exp(x).sum() for x in logits)
  distance = lambda q: 2 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
  assert value == pytest.approx(distance(q), rel=1e-5)
  step, expected = 1e-6, []
  for nudge in np.eye(7) * step:
    up, down = (np.exp(logits[0] + s * nudge) for s in (1, -1))
    high, low = distance(up / up.sum()), distance(down / down.sum())
    expected.append((high - low) / (2 * step))
  np.testing.assert_allclose(slope, expected, atol=1e-5)
  assert penalty == pytest.approx(np.log(7) + (q * np.log(q)).sum(), rel=1e-5)
