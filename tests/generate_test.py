"""Tests --mode=generate as shown in docs/generate.md, and its output."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from safetensors import numpy as safetensors_numpy

from kd.config import base
from kd.config import command_line
from kd.core import buckets
from kd.core import errors
from kd.modes import generate as generate_mode
from tests import command
from tests import object_store

_DOCS = pathlib.Path('docs/generate.md')
_TEACHER = 'data/fixtures/quickstart_teacher'


def _shown():
  """Returns the page's commands and the table's fields with defaults."""
  text = _DOCS.read_text()
  blocks = re.findall(r'^```(\w*)\n(.*?)^```', text, re.M | re.S)
  commands = ''.join(block for language, block in blocks if not language)
  table = re.findall(r'^\| `(\w+)` \| `?(.*?)`? \|', text, re.M)
  return commands.splitlines(), dict(table)


def test_commands_on_the_page_run(tmp_path):
  (write, run, talk), fields = _shown()
  subprocess.run(write, shell=True, check=True, cwd=tmp_path)
  program, *arguments = run.split('-m kd ')
  assert program == 'python '
  arguments = arguments[0].split()
  for name in ('prompts.jsonl', 'kd-answers'):
    arguments = [
      a.replace(f'={name}', f'={tmp_path / name}') for a in arguments
    ]
  code, out, err = command.run(arguments)
  assert code == 0 and '2/2 prompts answered' in out, err
  path = tmp_path / 'kd-answers' / 'completions.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['index'] for line in lines] == [0, 1]
  for line in lines:
    assert len({sample['text'] for sample in line['samples']}) > 1
    assert {sample['finish'] for sample in line['samples']} <= {
      *('stop', 'length')
    }
  # The chat sends the same prompts and streams the same first samples.
  talk = talk.replace('python', sys.executable)
  talk = talk.replace('=kd-chat', f'={tmp_path}/kd-chat')
  done = subprocess.run(
    talk, shell=True, env=command.environment(), text=True, capture_output=True
  )
  assert done.returncode == 0, done.stderr
  answers = [line['samples'][0]['text'] for line in lines]
  assert done.stdout == ''.join(f'{answer}\n' for answer in answers)
  assert 'each message is answered without' in done.stderr
  assert not (tmp_path / 'kd-chat').exists()
  default = base.get_config().generate
  beside = {'prompts', 'output', 'quantize'}
  assert fields == {
    name: str(value) for name, value in default.items() if name not in beside
  }


def _config(folder, **changes):
  config = command_line.load('configs/quickstart.py')
  config.student.update(init=f'hf:{folder}', variant='')
  config.generate.update(max_new_tokens=4, **changes)
  return config


def test_settings_come_only_from_the_config(tmp_path, capsys):
  """The model's generation config, such as top_p 0.95, is not used."""
  folder = tmp_path / 'hf'
  shutil.copytree(_TEACHER, folder)
  (folder / 'generation_config.json').write_text(
    json.dumps({'top_p': 0.33, 'top_k': 64, 'do_sample': True})
  )
  prompts = tmp_path / 'in.jsonl'
  prompts.write_text('{"prompt": "Q: 1+2=?"}\n')
  config = _config(
    folder, prompts=str(prompts), temperature=1.0, stop_strings=('#',)
  )
  generate_mode.main(config, str(tmp_path / 'work'))
  out = capsys.readouterr().out
  assert 'temperature 1.0, top_k 0, top_p 1.0, min_p 0.0,' in out
  assert os.listdir(tmp_path / 'work') == ['completions.jsonl']


def test_answers_of_another_model_are_not_continued(tmp_path):
  other = tmp_path / 'other'
  shutil.copytree(_TEACHER, other)
  file = other / 'model.safetensors'
  tensors = safetensors_numpy.load_file(file)
  tensors['model.norm.weight'] = tensors['model.norm.weight'] - 2
  safetensors_numpy.save_file(tensors, file, {'format': 'pt'})
  prompts = tmp_path / 'in.jsonl'
  prompts.write_text('{"prompt": "Q: 1+2=?"}\n')
  generate_mode.main(_config(_TEACHER, prompts=str(prompts)), str(tmp_path))
  written = (tmp_path / 'completions.jsonl').read_bytes()
  with pytest.raises(errors.ConfigError, match='another model: digest .*, now'):
    generate_mode.main(_config(other, prompts=str(prompts)), str(tmp_path))
  few_bits = _config(_TEACHER, prompts=str(prompts))
  few_bits.generate.quantize.update(weights='int4', tables='int8')
  with pytest.raises(errors.ConfigError, match='another model: digest .*, now'):
    generate_mode.main(few_bits, str(tmp_path))
  assert (tmp_path / 'completions.jsonl').read_bytes() == written


def test_a_file_of_answers_in_a_bucket_is_continued(
  tmp_path, monkeypatch, capsys
):
  prompts = tmp_path / 'in.jsonl'
  prompts.write_text('{"prompt": "Q: 1+2=?"}\n{"prompt": "Q: 2+2=?"}\n')
  with object_store.serve_here(monkeypatch) as store:
    config = _config(
      _TEACHER, prompts=str(prompts), output='s3://bucket/answers/a.jsonl'
    )
    generate_mode.main(config, str(tmp_path))
    whole = store.read('bucket', 'answers/a.jsonl')
    assert whole.count(b'\n') == 2
    # As a killed process leaves it, for a process on another machine.
    store.put('bucket', 'answers/a.jsonl', whole[:-9], lambda _: True)
    buckets._copies.clear()
    generate_mode.main(config, str(tmp_path))
    assert ' 1 answers of ' in capsys.readouterr().out
    assert store.read('bucket', 'answers/a.jsonl') == whole


@pytest.mark.parametrize(
  'change, words',
  [
    ({'top_p': 0.0}, ('generate.top_p', 'above 0 and at most 1')),
    ({'temperature': -0.1}, ('generate.temperature', '0 or more')),
    ({'samples': 0}, ('generate.samples', '1 to 65536')),
    ({'stop_strings': ('',)}, ('generate.stop_strings', "found ''")),
    ({'max_new_tokens': 9999}, ('generate.max_new_tokens', 'context of 1024')),
  ],
)
def test_invalid_requests_are_refused_with_their_path(change, words, tmp_path):
  config = _config(_TEACHER, prompts='nowhere')
  config.generate.update(change)
  with pytest.raises(errors.ConfigError) as e:
    generate_mode.main(config, str(tmp_path))
  assert all(word in str(e.value) for word in words), str(e.value)
