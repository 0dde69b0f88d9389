"""A served teacher with a server of a known model and planned faults."""

from concurrent import futures
import dataclasses
import json
import time

import numpy as np
import pytest

from kd.config import base
from kd.core import errors
from kd.core import types
from kd.input_pipeline import prefixes
from kd.input_pipeline import retry
from kd.teachers.served import budget as budget_lib
from kd.teachers.served import prompts
from kd.teachers.served import served_cases
from kd.teachers.served import teacher as teacher_lib

_K = 8


def _batch(seed=0, rows=3, length=24):
  """Returns packed rows: two examples each, prompts and padding uncounted."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(40, 120, (rows, length)).astype(np.int32)
  segments = np.zeros((rows, length), np.int32)
  segments[:, :10], segments[:, 10:21] = 1, 2
  weights = (segments > 0) * rng.integers(0, 2, (rows, length))
  weights[:, [0, 10]] = 0
  return types.Batch(
    tokens=tokens,
    # The target of an example's last id is not among the row's tokens.
    targets=np.roll(tokens, -1, axis=1),
    positions=np.zeros_like(tokens),
    segment_ids=segments,
    parts=np.zeros_like(tokens),
    weights=weights.astype(np.float32),
    row_id=np.arange(rows, dtype=np.int32),
  )


def _open(
  server, folder, said=None, vocab_size=served_cases.V, prefix='', **spec
):
  fields = base.get_config().teacher.server.to_dict()
  fields |= {'url': server.url, 'folder': str(folder), 'wait_s': 0.01, **spec}
  say = [].append if said is None else said.append
  words = served_cases.tokenizer()
  found = prefixes.Prefixes(prefix, words, ())
  return teacher_lib.Teacher(fields, words, vocab_size, _K, say, prefix, found)


def _targets(teacher, batch):
  return teacher.finish(batch, teacher.begin(batch))


def _check(targets, batch, model, most):
  """Compares with the model's own log-probabilities."""
  counted = batch.weights != 0
  whole = model[batch.tokens]
  order = np.sort(np.argsort(-whole, axis=-1)[..., :most], axis=-1)
  best = np.take_along_axis(whole, order, -1)
  np.testing.assert_array_equal(targets.ids[counted][:, :most], order[counted])
  assert (targets.ids[counted][:, most:] == -1).all()
  assert (targets.ids[~counted] == -1).all()
  close = lambda a, b: np.testing.assert_allclose(a, b[counted], rtol=2e-5)
  close(targets.logprobs[counted][:, :most], best)
  tail = np.log(1 - np.exp(best).sum(-1))
  close(targets.tail_logprob[counted], tail)
  outcomes = np.concatenate([best, tail[..., None]], -1)
  close(targets.entropy[counted], -(np.exp(outcomes) * outcomes).sum(-1))
  actual = np.take_along_axis(whole, batch.targets[..., None], -1)[..., 0]
  close(targets.target_logprob[counted], actual)


@pytest.mark.parametrize('api', ['prompt_logprobs', 'echo', 'sglang'])
def test_apis_return_the_models_most_likely_ids(tmp_path, api):
  batch, said = _batch(), []
  with served_cases.running(apis=(api,)) as server:
    # Ids with unique texts; 'echo' counts all others to the tail.
    plain = [i for i in range(served_cases.V) if 40 <= i < 134]
    others = np.setdiff1d(np.arange(served_cases.V), plain)
    server.model[:, others] -= 12
    server.model -= np.log(np.exp(server.model).sum(1, keepdims=True))
    teacher = _open(server, tmp_path, said)
    _check(_targets(teacher, batch), batch, server.model, _K)
    asked = len(server.asked)
    teacher.close()
    # A later run repeats the probe, but no stored request.
    again = _open(server, tmp_path)
    _check(_targets(again, batch), batch, server.model, _K)
    assert len(server.asked) - asked < asked - 5
    # Replies for rows of the student are not stored.
    parts = np.full_like(batch.parts, types.SAMPLED)
    asked = len(server.asked)
    for _ in range(2):
      _targets(again, dataclasses.replace(batch, parts=parts))
    assert len(server.asked) == asked + 2 * len([*prompts.of(batch)])
    again.close()
  assert api in said[0]


def test_servers_that_do_not_score_prompts_are_queried_by_position(tmp_path):
  batch, said = _batch(rows=1), []
  with served_cases.running(apis=('llama_cpp',), owner='llamacpp') as server:
    teacher = _open(server, tmp_path, said)
    _check(_targets(teacher, batch), batch, server.model, _K)
    teacher.close()
  assert 'one request per token' in ' '.join(said)


def test_only_the_teacher_reads_the_prefix(tmp_path):
  batch, prefix = _batch(rows=1), 'Add with care. '
  batch.tokens[0, 0] = 2  # The first example has a BOS.
  batch.weights[0, 0] = 1
  ids = served_cases.tokenizer().encode(prefix)
  with served_cases.running() as server:
    teacher = _open(server, tmp_path, prefix=prefix)
    targets = _targets(teacher, batch)
    teacher.close()
    asked = sorted(x['prompt'][: len(ids) + 1] for x in server.asked[-2:])
    assert asked[0] == [2, *ids] and asked[1][:-1] == ids
    # The BOS's target follows the prefix's last id. Other targets are the same,
    # since this model depends only on the previous id.
    np.testing.assert_allclose(
      targets.target_logprob[0, 0],
      server.model[ids[-1], batch.targets[0, 0]],
      rtol=2e-5,
    )
    batch.tokens[0, 0] = ids[-1]
    _check(targets, batch, server.model, _K)


def test_lower_limits_of_a_server_are_reported_and_used(tmp_path):
  batch, said = _batch(), []
  with served_cases.running(most=5, zero=False) as server:
    teacher = _open(server, tmp_path, said)
    targets = _targets(teacher, batch)
    assert targets.ids.shape[-1] == _K
    _check(targets, batch, server.model, 5)
    teacher.close()
    # Generated tokens and the probe's requests are counted too.
    spent = json.loads((tmp_path / 'spent.json').read_text())
    sizes = [len(x['prompt']) + x['max_tokens'] for x in server.asked]
    assert spent['requests'] == len(sizes) and spent['tokens'] == sum(sizes)
  told = ' '.join(said)
  assert 'K is 5 instead of 8' in told and 'refuses max_tokens 0' in told
  assert 'ignore the temperature' in told


def test_ids_missing_in_the_student_are_left_out(tmp_path):
  batch = _batch()
  with served_cases.running() as server:
    teacher = _open(server, tmp_path, vocab_size=200)
    targets = _targets(teacher, batch)
    teacher.close()
  counted = batch.weights != 0
  assert targets.ids.max() < 200 and targets.dropped_mass[counted].max() > 0
  kept = np.exp(targets.logprobs[counted]).sum(-1)
  total = kept + np.exp(targets.tail_logprob[counted])
  np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_faults_of_servers_are_retried(tmp_path):
  plan = {2: (500, {}), 4: 'cut', 5: (429, {'Retry-After': '0.05'}), 7: 2.0}
  batch = _batch()
  with served_cases.running(fault=plan.get) as server:
    teacher = _open(server, tmp_path, timeout_s=0.5, concurrency=2)
    _check(_targets(teacher, batch), batch, server.model, _K)
    # 2 requests of the probe, 6 of examples, and one retry for each fault.
    assert len(server.asked) == 2 + 6 + len(plan)
    server.fault = lambda number: (503, {})
    with pytest.raises(retry.ReadError, match='in 6 attempts.*503'):
      _targets(teacher, _batch(1))
    server.fault = lambda number: (401, {})
    with pytest.raises(errors.ConfigError, match='KD_TEACHER_KEY'):
      _targets(teacher, _batch(1))
    teacher.close()


def test_replicas_share_requests_and_replace_each_other(tmp_path):
  batch = _batch(rows=8)
  with served_cases.running() as server, served_cases.running() as other:
    opened = {'replicas': (other.url,), 'attempts': 2, 'wait_s': 60.0}
    teacher = _open(server, tmp_path, **opened)
    before = len(server.asked), len(other.asked)
    _check(_targets(teacher, batch), batch, server.model, _K)
    assert len(server.asked) - before[0] == len(other.asked) - before[1] == 8
    # A request that fails on one server is sent to the other at once.
    other.fault = lambda number: (503, {})
    later, began = _batch(1), time.monotonic()
    _check(_targets(teacher, later), later, server.model, _K)
    assert time.monotonic() - began < 30
    teacher.close()


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'model': served_cases.logprobs(1)}, r'that are [\d.]+ nats apart'),
    ({'most': 5}, 'ids per token 5 instead of 8'),
    ({'apis': ('echo',)}, "api 'echo' instead of 'prompt_logprobs'"),
    ({'fingerprint': 'second'}, "fingerprint 'second' instead of 'first'"),
  ],
)
def test_replicas_of_another_model_are_refused(tmp_path, fields, words):
  with (
    served_cases.running() as server,
    served_cases.running(**fields) as other,
  ):
    with pytest.raises(errors.ConfigError, match=words) as error:
      _open(server, tmp_path, replicas=(other.url,))
    assert other.url in str(error.value)
    assert error.value.path == 'teacher.server.replicas'


def test_shares_of_a_budget_are_never_more_than_it(tmp_path):
  limits = {'requests': 11, 'tokens': 0, 'money': 0.0}
  budgets, prices = [], budget_lib.Prices(0.0, 0.0)
  for number, spent in enumerate((3, 0, 1)):
    folder = tmp_path / str(number)
    folder.mkdir()
    # Earlier runs have spent different amounts.
    budgets.append(budget_lib.Budget(str(folder), limits, prices))
    for _ in range(spent):
      budgets[-1].reserve(1, 0)
      budgets[-1].settle(1, 0, None)
  for budget in budgets:
    budget.share([x.spent for x in budgets])
  for budget in budgets:
    with pytest.raises(errors.ConfigError, match=r'found 11 \(.* in this'):
      for _ in range(11):
        budget.reserve(1, 0)
        budget.settle(1, 0, None)
  # 7 were left, 2 whole requests for each.
  assert [x.spent['requests'] for x in budgets] == [5, 2, 3]


def test_another_model_stops_the_run(tmp_path):
  with served_cases.running() as server:
    teacher = _open(server, tmp_path, check_every=4, concurrency=1)
    _targets(teacher, _batch(rows=1))
    server.model = served_cases.logprobs(1)
    with pytest.raises(errors.ConfigError, match='another model answers'):
      _targets(teacher, _batch(1))
    teacher.close()
    with pytest.raises(errors.ConfigError, match='another model answers'):
      _open(server, tmp_path)
    # A failed start still counts its requests.
    spent = json.loads((tmp_path / 'spent.json').read_text())
    assert spent['requests'] == len(server.asked)
    server.shift = 1
    with pytest.raises(errors.ConfigError, match=r'position 1: id \d+ is'):
      _open(server, tmp_path / 'other')


def test_invalid_keys_are_not_shown(tmp_path, monkeypatch, caplog):
  with served_cases.running() as server:
    monkeypatch.setenv('KD_TEACHER_KEY', 'sk-secret\n')
    _open(server, tmp_path).close()  # A trailing newline is stripped.
    monkeypatch.setenv('KD_TEACHER_KEY', 'sk-\nsecret')
    with pytest.raises(errors.ConfigError, match='KD_TEACHER_KEY') as error:
      _open(server, tmp_path / 'other')
  assert 'secret' not in str(error.value) + caplog.text


def test_pending_requests_end_with_the_run(tmp_path):
  with served_cases.running() as server:
    teacher = _open(server, tmp_path, concurrency=1, wait_s=60.0)
    server.fault = lambda number: (503, {})
    begun = teacher.begin(_batch())
    while len(server.asked) < 3:
      time.sleep(0.01)
    start = time.monotonic()
    teacher.close()
    assert time.monotonic() - start < 10 and len(server.asked) == 3
    with pytest.raises((retry.ReadError, futures.CancelledError)):
      teacher.finish(_batch(), begun)


@pytest.mark.parametrize(
  'name, most', [('requests', 6), ('tokens', 200), ('money', 2e-4)]
)
def test_a_budget_stops_before_it_is_exceeded(tmp_path, name, most):
  batch, price = _batch(rows=8), {'prompt': 1.0, 'generated': 2.0}
  spec = {'price': price, 'concurrency': 3}
  limits = {'requests': 0, 'tokens': 0, 'money': 0.0}
  with served_cases.running() as server:
    teacher = _open(server, tmp_path, budget={**limits, name: most}, **spec)
    with pytest.raises(errors.ConfigError, match=f'budget.{name}: found'):
      _targets(teacher, batch)
    teacher.close()
    sizes = [len(x['prompt']) for x in server.asked]
    used = {'requests': len(sizes), 'tokens': sum(sizes)}
    used['money'] = used['tokens'] / 1e6
    spent = json.loads((tmp_path / 'spent.json').read_text())
    assert spent == pytest.approx(used)
    assert 0.5 * most < used[name] <= most
    # With a larger budget the same command ends, and repeats no request.
    teacher = _open(server, tmp_path, **spec)
    _check(_targets(teacher, batch), batch, server.model, _K)
    asked = [tuple(x['prompt']) for x in server.asked]
    assert len(set(asked)) == 1 + 16 and len(asked) <= 4 + 16
    teacher.close()


def test_a_folder_serves_one_run_at_a_time(tmp_path):
  with served_cases.running() as server:
    teacher = _open(server, tmp_path)
    with pytest.raises(errors.ConfigError, match='another run has'):
      _open(server, tmp_path)
    teacher.close()
    with open(tmp_path / 'replies', 'ab') as f:
      f.write(b'half of a reply')
    _open(server, tmp_path).close()
