"""Provides models with two traced layers per scanned period instead of six.

Tracing and compiling take most of a small run's time and grow with the layers
of a scanned period. Here a period has one local and one global layer, and the
scan has three periods, so that both kinds of layer are still run.
"""

from collections.abc import Iterator
import contextlib
import importlib
import json
import os
import shutil

_FIXTURE = 'data/fixtures/quickstart_teacher'


def teacher(folder: str) -> str:
  """Returns the flag for the quickstart's teacher with alternating layers.

  Args:
    folder: folder to write its files to, unless they exist.
  """
  folder = os.path.join(folder, 'alternating_teacher')
  if not os.path.isdir(folder):
    shutil.copytree(_FIXTURE, folder)
    path = os.path.join(folder, 'config.json')
    with open(path, encoding='utf-8') as f:
      config = json.load(f)
    kinds = ['sliding_attention', 'full_attention']
    config['layer_types'] = kinds * (config['num_hidden_layers'] // 2)
    del config['sliding_window_pattern']
    os.remove(path)  # Copies of Bazel's fixtures are read-only.
    with open(path, 'w', encoding='utf-8') as f:
      json.dump(config, f)
  return f'--config.teacher.init=hf:{folder}'


def make_variants_alternate() -> None:
  """Makes the layers of Gemma 3's variants alternate in this process."""
  _config().PUBLISHED_PERIOD = 2


@contextlib.contextmanager
def variants() -> Iterator[None]:
  """Makes the layers of Gemma 3's variants alternate within the block."""
  published = _config().PUBLISHED_PERIOD
  make_variants_alternate()
  try:
    yield
  finally:
    _config().PUBLISHED_PERIOD = published


def _config():
  return importlib.import_module('kd.models.gemma3.config')
