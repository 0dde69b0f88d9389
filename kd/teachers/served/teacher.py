"""Scores the prompts of batches with a model on one or several servers."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import dataclasses
import itertools
import os
import threading
from typing import Any

import jax
import numpy as np

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.core import paths
from kd.core import types
from kd.input_pipeline import prefixes as prefixes_lib
from kd.input_pipeline import tokenizers
from kd.partitioning import processes
from kd.teachers.served import apis
from kd.teachers.served import budget as budget_lib
from kd.teachers.served import client as client_lib
from kd.teachers.served import probe as probe_lib
from kd.teachers.served import prompt_scorer
from kd.teachers.served import prompts as prompts_lib
from kd.teachers.served import replies as replies_lib
from kd.teachers.served import vocabulary as vocabulary_lib

FILE = 'model.json'

_MODEL, _FOLDER = 'teacher.server.model', 'teacher.server.folder'


# Numbers of the exchanges in which processes open a teacher together.
_OPENED = itertools.count()


class Teacher:
  """A model on servers; raises if one of them changes the model.

  In a run of several processes each sends the requests of its own rows, and
  has its own folder and share of the budget. All must open the teacher.

  Attributes:
    most: K, number of requested ids per token; the server may return fewer.
    description: the model's name, API, number of ids and prefix (JSON values).
    digest: digest of the model, its scores of the probe, and `description`.
  """

  def __init__(
    self,
    spec: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer,
    vocab_size: int,
    most: int,
    say: Callable[[str], None],
    prefix: str = '',
    prefixes: prefixes_lib.Prefixes | None = None,
  ):
    """Probes the servers and opens the folder.

    Args:
      spec: the config's section teacher.server.
      tokenizer: tokenizer of the student.
      vocab_size: number of ids of the student.
      most: K.
      say: function called with lines for the user.
      prefix: template of the prefixes.
      prefixes: prefixes before each example; None for no prefix.

    Raises:
      ConfigError: a server returns no log-probabilities, its model differs
        from the one recorded in the folder or on another server, or a field is
        wrong.
      ReadError: a server cannot be reached.
    """
    folder = paths.expand(spec['folder'])
    if jax.process_index():
      folder = os.path.join(folder, f'process_{jax.process_index()}')
    with errors.refused_unless_writable(_FOLDER, folder, 'a local folder'):
      os.makedirs(folder, exist_ok=True)
    self.most, self._say = most, say
    self._prefixes = prefixes
    self._bos_id = tokenizer.bos_id
    self._vocab_size = min(vocab_size, tokenizer.vocab_size)
    self._replies = replies_lib.Replies(folder)
    self._budget = budget_lib.Budget(
      folder, spec['budget'], budget_lib.Prices(**spec['price'])
    )
    self._client = client = client_lib.Client(
      (spec['url'], *spec['replicas']),
      spec['key_variable'],
      client_lib.Patience(spec['attempts'], spec['wait_s'], spec['timeout_s']),
      self._budget,
    )
    self._vocabulary = vocabulary_lib.Vocabulary(tokenizer)
    self._tolerance = spec['tolerance']
    self._same = prompt_scorer.compared(spec['fingerprint'])
    self._check_every, self._asked = spec['check_every'], 0
    self._lock = threading.Lock()
    try:
      self._share_budget()  # Before the probe, which is charged, too.
      self._probed = self._probe(spec['model'], spec['api'])
      self._record = processes.from_first(lambda: self._recorded(folder))
      self._check_recorded()
    except BaseException:
      self._budget.close()
      self._replies.close()
      raise
    self.description = {
      'model': self._probed.model,
      'api': self._probed.api,
      'entries': self._probed.scorer.most,
      'prefix': prefix or [],
    }
    self.digest = identity.digest({**self._record, **self.description})
    self._pool = futures.ThreadPoolExecutor(spec['concurrency'], 'served')
    atexit.register(self.close)
    where = ', '.join(client.urls)
    say(f'teacher: {self._probed.model} at {where} ({self._probed.api})')
    for note in self._probed.notes:
      say(f'  {note}')

  def _probe(self, model, api):
    """Probes all servers; returns what the first can do, through all of them.

    Raises:
      ConfigError: they differ.
    """
    first, *others = (
      probe_lib.probe(client, self._vocabulary, model, api, self.most)
      for client in self._client.each()
    )
    for url, other in zip(self._client.urls[1:], others, strict=True):
      pairs = [
        ('model', first.model, other.model),
        ('api', first.api, other.api),
        ('ids per token', first.scorer.most, other.scorer.most),
      ]
      if 'fingerprint' in self._same:
        prints = (x.origin.fingerprint for x in (first, other))
        pairs.append(('fingerprint', *prints))
      for name, expected, found in pairs:
        if found != expected:
          raise _differs(url, f'{name} {found!r} instead of {expected!r}')
      apart = _nats_apart(first.scores.actual, other.scores)
      if not apart <= self._tolerance:
        raise _differs(
          url, f'log-probabilities that are {apart:.3g} nats apart'
        )
    scorer = first.scorer.through(self._client)
    return dataclasses.replace(first, scorer=scorer)

  def _recorded(self, folder):
    """Returns the identity in the folder, or that of now, which it records."""
    path = os.path.join(folder, FILE)
    if os.path.exists(path):
      return json_files.read(path, _FOLDER)
    now = self._identity()
    atomic_files.write_json(path, now)
    return now

  def _identity(self):
    probed = self._probed
    return {
      'model': probed.model,
      'fingerprint': probed.origin.fingerprint,
      'probe': list(self._vocabulary.probe),
      'logprobs': [float(x) for x in probed.scores.actual],
    }

  def _check_recorded(self):
    there, now = self._record, self._identity()
    for key in (*self._same, 'probe'):
      if there.get(key) != now[key]:
        raise self._changed(f'{key} {there.get(key)!r}', repr(now[key]))
    self._compare(self._probed.scores)

  def _share_budget(self):
    spent = processes.gather('spent', next(_OPENED), self._budget.spent)
    if len(spent) > 1:
      self._budget.share(spent)

  def _compare(self, scores):
    apart = _nats_apart(self._record['logprobs'], scores)
    if not apart <= self._tolerance:
      raise self._changed(
        'log-probabilities of the probe', f'{apart:.3g} nats apart'
      )

  def _changed(self, before, now):
    return errors.ConfigError(
      _MODEL,
      f'another model answers than before: {before}, now {now}',
      legal='the model that this run began with, or another '
      'teacher.server.folder',
    )

  def begin(self, batch: types.Batch, again: bool = False) -> list[Any]:
    """Requests the targets of a batch.

    Replies are stored, except for rows that the student sampled, which do not
    recur.

    Args:
      batch: a batch of numpy arrays.
      again: whether to ignore stored replies.

    Returns:
      The pending requests for `finish`.
    """
    sampled, begun = (batch.parts == types.SAMPLED).any(axis=1), []
    for own in prompts_lib.of(batch):
      prompt = own
      if self._prefixes is not None:
        prefix = self._prefixes(batch, own.row)(own.segment)
        prompt = prompts_lib.after(own, prefix, self._bos_id)
      keep = not (again or sampled[prompt.row])
      begun.append((prompt, self._pool.submit(self._answer, prompt, keep)))
    return begun

  def finish(
    self, batch: types.Batch, begun: Sequence[Any]
  ) -> prompts_lib.Targets:
    """Waits for the answers and returns the targets.

    Raises:
      ConfigError: the model or its tokens have changed, or the budget is
        spent.
      ReadError: the server cannot be reached.
    """
    try:
      answered = [(prompt, future.result()) for prompt, future in begun]
    except BaseException:
      for _, future in begun:
        future.cancel()
      raise
    return prompts_lib.targets(
      batch.tokens.shape, self.most, answered, self._vocab_size
    )

  def _answer(self, prompt, keep):
    digest = replies_lib.digest_of(self.digest, prompt.ids, prompt.positions)
    kept = self._replies.get(digest) if keep else None
    if kept is not None:
      return prompt_scorer.PromptScores.from_bytes(kept)
    self._check()
    answer = self._ask(prompt.ids, prompt.positions)
    if keep:
      self._replies.add(digest, answer.to_bytes())
    return answer

  def _ask(self, ids, positions) -> prompt_scorer.PromptScores:
    try:
      answer, origin = self._probed.scorer.score(ids, positions)
    except apis.MalformedError as e:
      raise errors.ConfigError(
        'teacher.server.url',
        f'a reply lacks requested values: {e}',
        legal='a server that answers each request as it answered the first',
      ) from e
    before = self._probed.origin
    if any(getattr(origin, x) != getattr(before, x) for x in self._same):
      raise self._changed(repr(before), repr(origin))
    return answer

  def _check(self):
    """Repeats the probe after every `check_every` requests."""
    with self._lock:
      self._asked += 1
      due = self._asked % self._check_every == 0
    if due:
      ids = self._vocabulary.probe
      answer = self._ask(ids, range(len(ids) - 1))
      self._compare(answer)

  def close(self) -> None:
    """Stops all requests and reports the costs; may be called repeatedly."""
    if self._replies.closed:
      return
    atexit.unregister(self.close)
    self._client.close()
    self._pool.shutdown(cancel_futures=True)
    self._budget.close()
    self._replies.close()
    costs = self._budget.summary()
    self._say(f'teacher: {costs} since its folder was created')


def _nats_apart(before: Sequence[float], now: prompt_scorer.PromptScores):
  """Returns the mean difference of the log-probabilities of the same ids."""
  before = np.asarray(before, np.float32)
  return float(np.abs(now.actual - before).mean())


def _differs(url: str, difference: str) -> errors.ConfigError:
  return errors.ConfigError(
    'teacher.server.replicas',
    f'{url} has {difference}',
    legal='servers of the same model as teacher.server.url',
  )
