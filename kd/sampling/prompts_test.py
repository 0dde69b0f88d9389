"""Files of prompts and answers: bad lines, kills, other prompts."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import models
from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.models import gemma3
from kd.models import gemma3_config
from kd.sampling import decode
from kd.sampling import prompts

TOKENIZER = tokenizers.load('bytes')
TEXTS = ['a', 'something longer', 'b' * 2000, 'é?', 'mid', 'six']


@pytest.fixture(name='answerer', scope='module')
def _answerer():
  config = gemma3_config.from_variant('nano', models.VARIANTS, 'variant')
  model = gemma3.build(config, 'float32', 'none', 'student')
  init = jax.jit(gemma3.init_params, static_argnums=0)
  params = init(model, jax.random.key(0))
  decoder = decode.Decoder(
    model, TOKENIZER.vocab_size, TOKENIZER.stop_ids, TOKENIZER.pad_id, 5, 2
  )
  return decoder, params


def _write(path, lines):
  path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
  return str(path)


def _read(path):
  return prompts.read(path, TOKENIZER, 'gemma')


def _ids(tmp_path, texts=TEXTS):
  return _read(
    _write(tmp_path / 'in.jsonl', [json.dumps({'prompt': t}) for t in texts])
  )


def test_prompt_is_a_users_message(tmp_path):
  message = {'role': 'user', 'content': 'Hi\u2028there'}
  path = _write(
    tmp_path / 'in.jsonl',
    [
      json.dumps({'prompt': message['content']}, ensure_ascii=False),
      json.dumps({'messages': [message]}) + '\r',
    ],
  )
  wanted = templates.encode_prompt(TOKENIZER, 'gemma', [message])
  assert _read(path) == [wanted, wanted]


@pytest.mark.parametrize(
  'line, match',
  [
    ('{"prompt": ', r'in\.jsonl:2: is no JSON'),
    ('', r'in\.jsonl:2: is no JSON'),
    ('["a"]', r'in\.jsonl:2: holds a list'),
    ('{"promt": "a"}', r"in\.jsonl:2: unknown key 'promt'.*'prompt'\?"),
    ('{}', r'in\.jsonl:2: has 0 of'),
    ('{"prompt": 3}', r'in\.jsonl:2: prompt is 3'),
    ('{"messages": []}', r'in\.jsonl:2: messages: are \[\]'),
    ('{"messages": [{"role": "user"}]}', r'in\.jsonl:2: messages\[0\]: is'),
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
  assert 'wrong too: 4)' in str(found.value)
  assert found.value.exit_code == 2


def test_missing_and_empty_files(tmp_path):
  with pytest.raises(errors.ConfigError, match='no such file'):
    _read(str(tmp_path / 'none.jsonl'))
  (tmp_path / 'empty.jsonl').touch()
  with pytest.raises(errors.ConfigError, match='is empty'):
    _read(str(tmp_path / 'empty.jsonl'))


class _Killed(Exception):
  pass


def test_killed_and_resumed_equals_uninterrupted(tmp_path, answerer):
  decoder, params = answerer
  ids = _ids(tmp_path)
  straight = tmp_path / 'straight.jsonl'
  records = prompts.answer_file(decoder, params, ids, TOKENIZER, str(straight))
  assert [r['index'] for r in records] == list(range(6))
  assert [r['too_long'] for r in records] == [t[:2] == 'bb' for t in TEXTS]
  assert all(
    r['truncated'] != (r['finished'] or r['too_long']) for r in records
  )
  (alone,) = decoder.generate(params, ids[3:4])
  assert records[3]['completion'] == TOKENIZER.decode(alone.ids)
  assert records[3]['tokens'] == len(alone.ids)

  def kill(done, total):
    assert total == 6
    if done >= 3:
      raise _Killed

  broken = tmp_path / 'deep' / 'broken.jsonl'
  with pytest.raises(_Killed):
    prompts.answer_file(decoder, params, ids, TOKENIZER, str(broken), kill)
  lines = broken.read_bytes().splitlines(keepends=True)
  assert len(lines) == 3
  broken.write_bytes(b''.join(lines[:2]) + lines[2][:20])
  on_disk = []

  def look(done, _):
    lines = broken.read_bytes().splitlines()
    assert done == len({json.loads(line)['index'] for line in lines})
    on_disk.append(done)

  prompts.answer_file(decoder, params, ids, TOKENIZER, str(broken), look)
  assert on_disk == [4, 6]  # Four were missing, in batches of two.
  assert broken.read_bytes() == straight.read_bytes()
  assert sorted(p.name for p in broken.parent.iterdir()) == ['broken.jsonl']


def test_a_complete_file_is_answered_by_no_model(tmp_path, answerer):
  decoder, params = answerer
  ids = _ids(tmp_path, ['x'])
  path = str(tmp_path / 'out.jsonl')
  first = prompts.answer_file(decoder, params, ids, TOKENIZER, path)
  nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  assert prompts.answer_file(decoder, nothing, ids, TOKENIZER, path) == first


def test_answers_to_other_prompts_are_kept(tmp_path, answerer):
  decoder, params = answerer
  path = tmp_path / 'out.jsonl'
  prompts.answer_file(decoder, params, _ids(tmp_path), TOKENIZER, str(path))
  before = path.read_bytes() + b'torn'
  path.write_bytes(before)
  others = _ids(tmp_path, ['z'] + TEXTS[1:])
  with pytest.raises(errors.ConfigError, match='jsonl:1: answers another'):
    prompts.answer_file(decoder, params, others, TOKENIZER, str(path))
  assert path.read_bytes() == before
  notes = _write(tmp_path / 'notes.jsonl', ['{"index": "0"}'])
  with pytest.raises(errors.ConfigError, match='jsonl:1: is no answer'):
    prompts.answer_file(decoder, params, others, TOKENIZER, notes)
