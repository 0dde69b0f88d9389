"""An exported model and reports for tests of registries."""

import json
import os
import pathlib
import shutil

from kd.run import provenance

_MODEL = 'data/fixtures/quickstart_teacher'
_FILES = ('config.json', 'model.safetensors', 'tokenizer.model')


def export(folder: pathlib.Path, **config: object) -> str:
  """Writes a folder as --mode=export does, of a model that is in the project.

  Args:
    folder: is made.
    **config: fields of its config.json that are changed.
  """
  folder.mkdir()
  for name in _FILES:
    shutil.copy(os.path.join(_MODEL, name), folder)
  file = folder / 'config.json'
  file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
  claims = {
    'format': 1,
    'code': {},
    'student': {'source': folder.name, 'weights': '0123456789abcdef'},
    'inputs': {},
    'evaluation': None,
  }
  names = [path.name for path in folder.iterdir()]
  provenance.write(str(folder / provenance.FILE), claims, 'float32', names)
  return str(folder)


def report(folder: pathlib.Path, verdict: str) -> str:
  """Writes a benchmark report."""
  path = folder / f'{verdict.replace(" ", "-")}.json'
  path.write_text(json.dumps({'verdict': verdict}))
  return str(path)
