"""Tests training on 50 chats with the commands of docs/data.md, and the export.

The assistant's tokens and the answers are compared with transformers.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from kd import modes
from kd.config import base
from kd.config import command_line
from kd.config import overrides
from kd.core import errors
from kd.data_files import chats as chats_lib
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepared
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.run import session
from tests import command
from tests.oracles import client

_FIRST, _, _REST = (
  pathlib.Path('docs/data.md').read_text().partition('\n## Tasks')
)
(_REFUSED,) = re.findall(r'^chats\.jsonl:5: .*', _REST, re.M)
# A short run, since the test is about inputs and outputs.
_CHANGES = {
  'steps': '2',
  'optimizer.lr.warmup_steps': '1',
  'evaluation.every': '0',
  'evaluation.baseline': 'False',
  'evaluation.batch_size': '4',
  'evaluation.sets.held_out.examples': '2',
  'evaluation.sets.held_out.answers': '0',
  'data.batch_size': '4',
  'log.tensorboard': 'False',
}
_GENERATE = {'generate.max_new_tokens': '6', 'export.dtype': 'float32'}
_NEW = 6


def _blocks(kind):
  return re.findall(rf'^```{kind}\n(.*?)^```', _FIRST, re.M | re.S)


def _more_chats():
  """Returns chats like those of the page, to have 50 in total."""
  for i in range(46):
    a, b = 11 * i % 97, 7 * i % 89
    chat = [
      {'role': 'user', 'content': f'{a}+{b}?'},
      {'role': 'assistant', 'content': f'{a + b}', 'train': i % 3 > 0},
      {'role': 'user', 'content': 'And plus one?'},
      {'role': 'assistant', 'content': f'{a + b + 1}', 'weight': 0.5},
    ]
    if i % 5 == 0:
      call = {'name': 'add', 'arguments': json.dumps({'a': a, 'b': b})}
      chat[1:2] = [
        {
          'role': 'assistant',
          'content': None,
          'tool_calls': [{'function': call}],
        },
        {'role': 'tool', 'content': f'{a + b}'},
        {'role': 'assistant', 'content': f'It is {a + b}.'},
      ]
    if i % 4 == 0:
      chat.insert(0, {'role': 'system', 'content': 'Use digits.'})
    yield {'messages': chat}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The user's folder after the page's commands."""
  if 'KD_ORACLES_PYTHON' not in os.environ:
    pytest.skip('KD_ORACLES_PYTHON names no Python with transformers')
  folder, before = tmp_path_factory.mktemp('chats'), os.getcwd()
  write, _, commands = _blocks('')[0].partition('\nEND\n')
  write += '\nEND\n'
  subprocess.run(['bash', '-ec', write], check=True, cwd=folder)
  with open(folder / 'chats.jsonl', 'a', encoding='utf-8') as f:
    f.writelines(json.dumps(chat) + '\n' for chat in _more_chats())
  os.chdir(folder)
  (folder / 'configs').symlink_to(os.path.join(before, 'configs'))
  with command.compiled_once():
    for line in commands.splitlines():
      _run(folder, line)
  yield folder
  os.chdir(before)


def _run(folder, line):
  """Runs a command of the page with fewer steps, in this process."""
  flags = dict(
    x.removeprefix('--').split('=', 1)
    for x in shlex.split(line.removeprefix('python -m kd '))
  )
  workdir = flags.pop('workdir').replace('/tmp', str(folder / 'out'))
  mode = flags.pop('mode', 'train')
  changes = {k.removeprefix('config.'): v for k, v in flags.items()}
  place = changes.pop('config', None)
  if place:
    config = command_line.load(place)
    changes |= {'data.folder': str(folder / 'rows'), **_CHANGES}
  else:
    config = session.recorded_config(workdir, or_default=False)
    changes |= _GENERATE
  config = base.checked(
    overrides.apply(
      config, [overrides.Override(k, v, '') for k, v in changes.items()]
    )
  )
  modes.load(mode)(config, workdir)


def _chats(folder):
  rows = map(json.loads, (folder / 'chats.jsonl').read_text().splitlines())
  return [row['messages'] for row in rows]


def test_chats_and_answers_equal_transformers(folder, tmp_path):
  chats = _chats(folder)
  assert len(chats) == 50
  workdir = folder / 'out' / 'kd-chats'
  answered = [
    json.loads(line)
    for line in (workdir / 'completions.jsonl').read_text().splitlines()
  ]
  assert [line['messages'] for line in answered] == chats
  assert answered[3]['source'] == 'by hand'
  asked = [chat[:-1] for chat in chats]
  (export,) = (workdir / 'export').glob('**/config.json')
  results, _ = client.run(
    'chats',
    'ask',
    {
      'folder': str(export.parent),
      'chats': chats,
      'prompts': asked[:6],
      'new_tokens': _NEW,
    },
    {},
    tmp_path,
  )
  tokenizer = tokenizers.load('bytes')
  for chat, ids, mask in zip(
    chats, results['ids'], results['mask'], strict=True
  ):
    every = [
      m | {'weight': float(m['role'] == 'assistant')}
      for m in chats_lib.check(chat, 'chat')
    ]
    ours, _, weights = templates.encode(tokenizer, 'gemma', every)
    assert ours.tolist() == ids and weights.tolist() == mask
  got = [line['samples'][0]['text'] for line in answered[:6]]
  assert got == results['answers']


def test_weights_of_rows_count_each_messages_tokens(folder):
  """The expected weights count the messages' bytes and end-of-turn tokens."""
  (manifest,) = (folder / 'rows').glob('chats.jsonl-train-*/manifest.json')
  (part,) = prepared.read_manifest(str(manifest.parent))['parts']
  (kept,) = manifest.parent.glob('*examples*')
  examples = [json.loads(line) for line in kept.read_text().splitlines()]
  # 5 percent of the 50 distinct prompts are held out.
  assert (
    part['examples']
    == len(examples)
    == 50 - round(0.05 * len({_first(chat) for chat in _chats(folder)}))
  )
  weight = sum(
    m['weight'] * (1 + len(_said(m).encode()))
    for example in examples
    for m in example['messages']
  )
  assert part['target_weight'] == pytest.approx(weight)


def _first(chat):
  return next(m['content'] for m in chat if m['role'] == 'user')


def _said(message):
  calls = [
    f'{{"name": "{call["name"]}", "parameters": {_json(call["arguments"])}}}'
    for call in message.get('tool_calls', ())
  ]
  return '\n'.join(filter(None, [message['content'], *calls]))


def _json(arguments):
  return arguments if isinstance(arguments, str) else json.dumps(arguments)


def test_the_page_shows_the_printed_output(folder, capsys, monkeypatch):
  shown, counts, held_out = (b.rstrip() for b in _blocks('text'))
  write, _, commands = _blocks('')[0].partition('\nEND\n')
  alone = folder / 'alone'
  alone.mkdir()
  monkeypatch.chdir(alone)
  (alone / 'configs').symlink_to(folder / 'configs')
  subprocess.run(['bash', '-ec', f'{write}\nEND\n'], check=True)
  first = commands.splitlines()[0]
  _run(alone, first)
  out = capsys.readouterr().out
  for text in (shown, counts, held_out):
    assert text in out, out
  counted = json.loads((alone / 'out/kd-chats/data.json').read_text())
  assert counted['sources']['chats.jsonl']['examples'] == 3
  shutil.copy('chats.jsonl', 'more.jsonl')
  _run(
    alone, first.replace('=chats.jsonl', "=\"('chats.jsonl','more.jsonl')\"")
  )
  assert re.findall(r'^--- a row of (\S+):', capsys.readouterr().out, re.M) == [
    *('chats.jsonl', 'chats.jsonl', 'more.jsonl')
  ]
  with open('chats.jsonl', 'a', encoding='utf-8') as f:
    f.write(
      '{"messages": [{"role": "user", "content": "a"}, '
      '{"role": "asistant", "content": "b"}]}\n'
    )
  with pytest.raises(errors.ConfigError) as e:
    _run(alone, first)
  assert str(e.value) == _REFUSED


def test_the_config_on_the_page_equals_the_commands():
  scope = {}
  exec(_blocks('python')[0], scope)
  data = scope['get_config']().data
  assert mixtures.shown(data.mixture) == 'chats.jsonl'
  assert (data.template, data.length) == ('gemma', 256)
  assert np.isclose(data.held_out, 0.05)
