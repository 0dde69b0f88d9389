"""A student and a teacher of which two layers are traced instead of six.

Tracing and compiling a run takes most of its time, and both grow with the
layers of a scanned period. Here a period has one local and one global layer,
and the scan has three periods, so that each kind of layer is run as before.
"""

from collections.abc import Iterator
import contextlib
import importlib
import json
import os
import shutil

_FIXTURE = 'data/fixtures/quickstart_teacher'


def teacher(folder: str) -> str:
  """Returns the flag of the quickstart's teacher with alternating layers.

  Args:
    folder: gets its files, unless they are there.
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
    os.remove(path)  # Bazel's fixtures cannot be written.
    with open(path, 'w', encoding='utf-8') as f:
      json.dump(config, f)
  return f'--config.teacher.init=hf:{folder}'


def make_variants_alternate() -> None:
  """Changes this process: layers of Gemma 3's variants alternate."""
  _config().PUBLISHED_PERIOD = 2


@contextlib.contextmanager
def variants() -> Iterator[None]:
  """Has the layers of Gemma 3's variants alternate for a while."""
  published = _config().PUBLISHED_PERIOD
  make_variants_alternate()
  try:
    yield
  finally:
    _config().PUBLISHED_PERIOD = published


def _config():
  return importlib.import_module('kd.models.gemma3.config')
