"""An exported model and reports for tests of registries."""

import json
import os
import pathlib
import shutil

from safetensors import numpy

from kd.run import provenance

_MODEL = 'data/fixtures/quickstart_teacher'
_FILES = ('config.json', 'model.safetensors', 'tokenizer.model')


def export(folder: pathlib.Path, scale: float = 1.0, **config: object) -> str:
  """Writes a folder as --mode=export does, from a fixture.

  Args:
    folder: path of the new folder.
    scale: factor of the final norm.
    **config: changed fields of config.json.
  """
  folder.mkdir()
  for name in _FILES:
    shutil.copy(os.path.join(_MODEL, name), folder)
  file = folder / 'config.json'
  file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
  if scale != 1.0:
    path = folder / 'model.safetensors'
    tensors = numpy.load_file(path)
    tensors['model.norm.weight'] = tensors['model.norm.weight'] * scale
    numpy.save_file(tensors, path, {'format': 'pt'})
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
