"""Tests files of prompts and answers: bad lines, kills, changed prompts."""

import base64
import dataclasses
import hashlib
import json
import re

import jax
import jax.numpy as jnp
import pytest

from kd.core import errors
from kd.images import form as form_lib
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models import model_cases
from kd.models.vision import vision_cases
from kd.sampling import engine
from kd.sampling import prompts
from kd.sampling import requests

TOKENIZER = tokenizers.load('bytes')
TEXTS = ['a', 'something longer', 'b' * 2000, 'é?', 'mid', 'six']


SETTINGS = requests.greedy(5)


@pytest.fixture(name='answerer', scope='module')
def _answerer():
  config = families.variant('nano', 'variant').keep_layers((4, 5))
  model = families.build(config, 'float32', 'none', 'student')
  drawn = model_cases.random_params(model.abstract_params())
  params = jax.tree.map(jnp.asarray, drawn)
  sampler = engine.Engine(model, engine.vocabulary(TOKENIZER), 2)
  return sampler, params


def _answer(
  answerer,
  ids,
  path,
  progress=None,
  settings=SETTINGS,
  model='a',
  say=lambda line: None,
):
  sampler, params = answerer
  return prompts.answer_file(
    lambda asked: sampler.stream(params, asked, settings),
    ids,
    prompts.requests_of(ids, seed=3, samples=2),
    settings,
    str(path),
    logprobs=True,
    model=model,
    say=say,
    progress=progress,
  )


def _write(path, lines):
  path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
  return str(path)


def _read(path):
  return prompts.read(path, TOKENIZER, 'gemma')


def _ids(tmp_path, texts=TEXTS):
  return _read(
    _write(tmp_path / 'in.jsonl', [json.dumps({'prompt': t}) for t in texts])
  )


def test_prompts_are_rendered_as_user_messages(tmp_path):
  message = {'role': 'user', 'content': 'Hi\u2028there'}
  answer = {'role': 'assistant', 'content': 'Yes'}
  path = _write(
    tmp_path / 'in.jsonl',
    [
      json.dumps({'prompt': message['content']}, ensure_ascii=False),
      json.dumps({'messages': [message]}) + '\r',
      # A chat to train on: its last answer is no part of the prompt.
      json.dumps({'messages': [message, answer], 'prompt': 'Hi'}),
      json.dumps({'prompt': message['content'], 'completion': 'Yes'}),
    ],
  )
  wanted = templates.encode_prompt(TOKENIZER, 'gemma', [message])
  read = _read(path)
  assert [prompt.ids for prompt in read] == [wanted] * 4
  assert read[2].fields['messages'][1] == answer
  assert {prompt.fields['prompt_text'] for prompt in read} == {
    '<start_of_turn>user\nHi\u2028there<end_of_turn>\n<start_of_turn>model\n'
  }


@pytest.mark.parametrize(
  'line, match',
  [
    ('{"prompt": ', r'in\.jsonl:2: is not JSON'),
    (r'{"prompt": "Thanks \ud83d"}', r'in\.jsonl:2: has half of a surrogate'),
    ('["a"]', r'in\.jsonl:2: holds \[.*not an object'),
    ('{"promt": "a"}', r"in\.jsonl:2: has 'promt'.*'prompt'\?"),
    ('{}', r'in\.jsonl:2: has no column'),
    ('{"prompt": "a", "index": 3}', r"in\.jsonl:2: has a key 'index'"),
    ('{"prompt": 3}', r'in\.jsonl:2: prompt: is 3'),
    ('{"messages": []}', r'in\.jsonl:2: messages: are \[\]'),
    (
      '{"messages": [{"role": "user"}]}',
      r'in\.jsonl:2: messages\[0\]: has no content',
    ),
    (
      '{"messages": [{"role": "usr", "content": "a"}]}',
      r"in\.jsonl:2: messages\[0\]\.role: unknown role 'usr'.*'user'\?",
    ),
  ],
)
def test_bad_lines_are_named(tmp_path, line, match):
  good = '{"prompt": "a"}'
  path = _write(tmp_path / 'in.jsonl', [good, line, good, '5'])
  with pytest.raises(errors.ConfigError, match=match) as found:
    _read(path)
  assert f'other invalid lines: {path}:4)' in str(found.value)
  assert found.value.exit_code == 2


def test_missing_and_empty_files(tmp_path):
  with pytest.raises(errors.ConfigError, match='no file'):
    _read(str(tmp_path / 'none.jsonl'))
  (tmp_path / 'empty.jsonl').touch()
  with pytest.raises(errors.ConfigError, match='is empty'):
    _read(str(tmp_path / 'empty.jsonl'))


def test_answers_keep_their_prompt_and_additional_keys(tmp_path, answerer):
  lines = [
    {'prompt': 'a', 'id': 7, 'text': ['x', None]},
    {'messages': [{'role': 'user', 'content': 'b'}], 'answer': '3'},
  ]
  path = tmp_path / 'out.jsonl'

  def ask():
    asked = _read(_write(tmp_path / 'in.jsonl', map(json.dumps, lines)))
    _answer(answerer, asked, path)
    return [json.loads(line) for line in path.read_text().splitlines()]

  for line, record in zip(lines, ask(), strict=True):
    assert {key: record[key] for key in line} == line
    assert len(record['samples']) == 2
  # Keys added later are written to reused answers.
  lines[0]['id'] = 8
  assert ask()[0]['id'] == 8


def test_answers_name_images_instead_of_repeating_them(tmp_path):
  file = vision_cases.png(0)
  coded = base64.b64encode(file).decode()
  url = f'data:image/png;base64,{coded}'
  lines = [
    {'messages': [{'role': 'user', 'content': [part]}], 'mine': 'kept'}
    for part in (
      {'type': 'image', 'base64': coded},
      {'type': 'image_url', 'image_url': {'url': url}},
      {'type': 'image', 'path': 'a.png'},
    )
  ]
  (tmp_path / 'a.png').write_bytes(file)
  form = form_lib.Form(16, 4, TOKENIZER.image_ids[1], per_row=1)
  path = _write(tmp_path / 'in.jsonl', map(json.dumps, lines))
  read = prompts.read(path, TOKENIZER, 'gemma', form=form)
  assert len({one.images[0].key for one in read}) == 1
  name = f'sha256:{hashlib.sha256(file).hexdigest()}'
  shown = [one.fields['messages'][0]['content'][0] for one in read]
  assert shown == [
    {'type': 'image', 'base64': name},
    {'type': 'image_url', 'image_url': {'url': name}},
    {'type': 'image', 'path': 'a.png'},
  ]
  assert [one.fields['mine'] for one in read] == ['kept'] * 3


class _Killed(Exception):
  pass


def test_killed_and_resumed_answers_equal_uninterrupted_ones(
  tmp_path, answerer
):
  sampler, params = answerer
  ids = _ids(tmp_path)
  straight = tmp_path / 'straight.jsonl'
  drawn = dataclasses.replace(SETTINGS, temperature=1.0)
  records = _answer(answerer, ids, straight, settings=drawn)
  assert [r['index'] for r in records] == list(range(6))
  for text, record in zip(TEXTS, records, strict=True):
    first, second = record['samples']
    assert (first['finish'] == 'too_long') == (text[:2] == 'bb')
    assert first['tokens'] == len(first['ids']) == len(first['logprobs'])
    assert first != second or text[:2] == 'bb'
  request = requests.Request(tuple(ids[3].ids), 3 << 32 | 3, 1)
  ((alone,),) = sampler.generate(params, [request], drawn)
  assert records[3]['samples'][0]['text'] == alone.text

  def kill(done, total):
    assert total == 6
    if done >= 3:
      raise _Killed

  broken = tmp_path / 'deep' / 'broken.jsonl'
  with pytest.raises(_Killed):
    _answer(answerer, ids, broken, kill, drawn)
  lines = broken.read_bytes().splitlines(keepends=True)
  assert len(lines) == 3
  broken.write_bytes(b''.join(lines[:2]) + lines[2][:20])
  on_disk = []

  def look(done, _):
    lines = broken.read_bytes().splitlines()
    assert done == len({json.loads(line)['index'] for line in lines})
    on_disk.append(done)

  _answer(answerer, ids, broken, look, drawn)
  assert on_disk == [3, 4, 5, 6]
  assert broken.read_bytes() == straight.read_bytes()
  assert sorted(p.name for p in broken.parent.iterdir()) == ['broken.jsonl']


def test_complete_files_are_not_answered_again(tmp_path, answerer):
  sampler, params = answerer
  ids = _ids(tmp_path, ['x'])
  path = tmp_path / 'out.jsonl'
  first = _answer(answerer, ids, path)
  nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  again = _answer((sampler, nothing), ids, path)
  assert json.dumps(again) == json.dumps(first)


def test_answers_of_another_model_are_kept_and_refused(tmp_path, answerer):
  path = tmp_path / 'out.jsonl'
  ids = _ids(tmp_path, ['x'])
  _answer(answerer, ids, path)
  before = path.read_bytes()
  with pytest.raises(errors.ConfigError, match='another model: digest a, now'):
    _answer(answerer, ids, path, model='b')
  assert path.read_bytes() == before
  lines = []
  _answer(answerer, ids, path, say=lines.append)
  assert re.search(r'1 answers of \d{4}-\d\d-\d\d .*Z reused', lines[0])


def test_answers_to_other_requests_are_kept(tmp_path, answerer):
  path = tmp_path / 'out.jsonl'
  ids = _ids(tmp_path)
  _answer(answerer, ids, path)
  before = path.read_bytes() + b'torn'
  path.write_bytes(before)
  others = _ids(tmp_path, ['z'] + TEXTS[1:])
  warmer = dataclasses.replace(SETTINGS, temperature=0.5)
  for asked, settings in ((others, SETTINGS), (ids, warmer)):
    with pytest.raises(errors.ConfigError, match='jsonl:1: does not match'):
      _answer(answerer, asked, path, settings=settings)
    assert path.read_bytes() == before
  notes = _write(tmp_path / 'notes.jsonl', ['{"index": "0"}'])
  with pytest.raises(errors.ConfigError, match='jsonl:1: was not written'):
    _answer(answerer, ids, notes)
