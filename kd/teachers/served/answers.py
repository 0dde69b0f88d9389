"""Asks a model on a server for answers, and keeps each reply."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import re
import threading
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.core import run_info
from kd.input_pipeline import templates
from kd.sampling import requests
from kd.teachers.served import budget as budget_lib
from kd.teachers.served import client as client_lib
from kd.teachers.served import probe
from kd.teachers.served import questions
from kd.teachers.served import replies as replies_lib

FILE = 'answered_by.json'
CHAT, COMPLETIONS = 'chat', 'completions'

_PATHS = {CHAT: '/chat/completions', COMPLETIONS: '/completions'}
# Tokens that a chat template may add to a prompt: its marks, a system text.
_TEMPLATE_TOKENS = 256
_TOO_LONG = re.compile('context|too long|at most [0-9,]+ together', re.I)
_ABOUT_N = re.compile(r'\bn\b|choices?\b|answers', re.I)
_SEEDS = 2**31


@dataclasses.dataclass(frozen=True)
class Answer:
  """One answer.

  Attributes:
    text: of the answer.
    finish: what the server says; 'stop' or 'length' where it follows OpenAI,
      or 'too_long': it has no room for the prompt.
  """

  text: str
  finish: str


@dataclasses.dataclass(frozen=True)
class Reply:
  """The reply to one request.

  Attributes:
    answers: to the prompt, one or more.
    date: when it came, as run_info.now.
    model: the name that it has.
    fingerprint: `system_fingerprint`, if it has one.
    prompt_tokens: that the server has counted; None if it does not tell.
    generated_tokens: likewise, of all answers together.
  """

  answers: tuple[Answer, ...]
  date: str
  model: str
  fingerprint: str
  prompt_tokens: int | None
  generated_tokens: int | None

  def to_bytes(self) -> bytes:
    """Returns the reply as JSON."""
    return json.dumps(dataclasses.asdict(self)).encode()

  @classmethod
  def from_bytes(cls, data: bytes) -> 'Reply':
    """Returns what `to_bytes` wrote."""
    fields = json.loads(data)
    answers = tuple(Answer(**answer) for answer in fields.pop('answers'))
    return cls(answers, **fields)


class Answerer:
  """Answers prompts with one model on a server; thread-safe.

  Attributes:
    model: its name.
    url: of the server.
  """

  def __init__(
    self,
    spec: Mapping[str, Any],
    folder: str,
    api: str,
    settings: requests.SamplingSettings,
    say: Callable[[str], None],
  ):
    """Opens the folder; asks the server for its models if none is named.

    Args:
      spec: the config's section teacher.server.
      folder: of the replies and of the budget's counts.
      api: CHAT or COMPLETIONS.
      settings: of the sampling; those that the server does not know are sent
        only where they ask for something.
      say: called with lines for the user.

    Raises:
      ConfigError: another run has the folder open, or a field is wrong.
      ReadError: the server cannot be reached.
    """
    self._api, self._settings, self._say = api, settings, say
    self._same = questions.compared(spec['fingerprint'])
    self._path, self._lock = os.path.join(folder, FILE), threading.Lock()
    path = 'teacher.server.folder'
    with errors.refused_unless_writable(path, folder, 'a local folder'):
      os.makedirs(folder, exist_ok=True)
    self._replies = replies_lib.Replies(folder)
    self._budget = budget_lib.Budget(
      folder, spec['budget'], budget_lib.Prices(**spec['price']), ahead=0
    )
    patience = (spec['attempts'], spec['wait_s'], spec['timeout_s'])
    self._client = client_lib.Client(
      spec['url'],
      spec['key_variable'],
      client_lib.Patience(*patience),
      self._budget,
    )
    self.url = self._client.url
    try:
      self.model = spec['model']
      if not self.model:
        self.model = probe.chosen('', probe.models(self._client))
      # Who answers; and how it is asked, as it turned out.
      self._origin = {}
      self._way = {'most': 2**16, 'limit': 'max_tokens', 'seeds': True}
      if os.path.exists(self._path):
        told = json_files.read(self._path, path)
        self._origin = told.get('origin', {})
        self._way |= told.get('way', {})
    except BaseException:
      self.close()
      raise

  def __call__(
    self, messages: Sequence[templates.Message], seed: int, samples: int
  ) -> list[Reply]:
    """Returns the replies that together have a number of answers.

    A server that gives fewer answers than it was asked for is asked again.

    Args:
      messages: the prompt, each with its role and content alone; with
        COMPLETIONS one, whose text is continued.
      seed: of the first answer, from 0.
      samples: answers that are wanted.

    Raises:
      ConfigError: the budget is spent, another model answers, or the server
        refuses the request.
      ReadError: it cannot be reached.
    """
    found, count = [], 0
    while count < samples:
      reply = self._reply(messages, (seed + count) % _SEEDS, samples - count)
      found.append(reply)
      count += len(reply.answers)
    return found

  def _reply(self, messages, seed, samples):
    while True:
      asked = min(samples, self._way['most'])
      digest = self._digest(messages, seed, asked)
      kept = self._replies.get(digest)
      if kept is not None:
        return Reply.from_bytes(kept)
      try:
        reply = self._ask(messages, seed, asked)
      except client_lib.RefusedError as e:
        if _TOO_LONG.search(str(e)):
          answers = (Answer('', 'too_long'),) * samples
          return Reply(answers, run_info.now(), self.model, '', None, None)
        if not self._adapt(str(e), asked):
          raise
        continue
      self._check(reply)
      self._replies.add(digest, reply.to_bytes())
      return reply

  def _digest(self, messages, seed, samples):
    settings = dataclasses.asdict(self._settings)
    asked = [self.model, self._api, list(messages), settings, seed, samples]
    return bytes.fromhex(identity.digest(asked) + identity.digest(asked[::-1]))

  def _ask(self, messages, seed, samples):
    """Sends one request; returns its reply, which has 1 to `samples` answers.

    Raises:
      RefusedError, ConfigError, ReadError: from the client.
    """
    settings = self._settings
    body = {'model': self.model, 'n': samples}
    body[self._way['limit']] = settings.max_new_tokens
    body['temperature'] = settings.temperature
    if self._api == CHAT:
      body['messages'] = list(messages)
    else:
      (message,) = messages
      body['prompt'] = message['content']
    if self._way['seeds']:
      body['seed'] = seed
    if settings.stop_strings:
      body['stop'] = list(settings.stop_strings)
    neutral = {'top_k': 0, 'top_p': 1, 'min_p': 0, 'repetition_penalty': 1}
    for name, value in neutral.items():
      if getattr(settings, name) != value:
        body[name] = getattr(settings, name)
    # No token has less than a byte.
    size = sum(len(message['content'].encode()) for message in messages)
    prompt = size + _TEMPLATE_TOKENS * len(messages)
    generated = samples * settings.max_new_tokens
    reply = self._client.post(_PATHS[self._api], body, prompt, generated)
    try:
      return self._read(reply, samples)
    except (KeyError, IndexError, TypeError, AttributeError) as e:
      raise errors.ConfigError(
        'teacher.server.url',
        f'a reply has no answer: {type(e).__name__}: {e}',
        legal=f"a server that has OpenAI's {_PATHS[self._api]}",
      ) from e

  def _read(self, reply, samples):
    answers = []
    for choice in reply['choices'][:samples]:
      is_chat = self._api == CHAT
      text = choice['message']['content'] if is_chat else choice['text']
      answers.append(
        Answer(text or '', str(choice.get('finish_reason') or 'unknown'))
      )
    answers[0]  # noqa: B018 (a reply without any is none)
    usage = reply.get('usage') or {}
    return Reply(
      tuple(answers),
      run_info.now(),
      str(reply.get('model') or ''),
      str(reply.get('system_fingerprint') or ''),
      usage.get('prompt_tokens'),
      usage.get('completion_tokens'),
    )

  def _adapt(self, problem: str, asked: int) -> bool:
    """Asks without what a server refuses; returns whether that helps."""
    with self._lock:
      way, limit, line = self._way, 'max_completion_tokens', ''
      if limit in problem and way['limit'] != limit:
        way['limit'] = limit
      elif re.search(r'\bseed\b', problem) and way['seeds']:
        way['seeds'] = False
        line = 'it takes no seed: what it samples is its own choice'
      elif asked > 1 and _ABOUT_N.search(problem):
        # Another request may have found out meanwhile.
        way['most'] = min(way['most'], asked // 2)
        line = f'it gives at most {way["most"]} answers per request'
      else:
        return False
      self._record()
    if line:
      self._say(f'  {self.url}: {line}')
    return True

  def _check(self, reply):
    """Raises ConfigError if another model has answered than before."""
    now = {'model': reply.model, 'fingerprint': reply.fingerprint}
    with self._lock:
      if not self._origin:
        self._origin = now
        self._record()
      for key in self._same:
        if self._origin.get(key) != now[key]:
          raise errors.ConfigError(
            'teacher.server.model',
            'another model answers than before: its '
            f'{key} was {self._origin.get(key)!r}, now {now[key]!r}',
            legal='the model that this run began with; another '
            'reasoning.folder; or, if several builds of one model answer, '
            "teacher.server.fingerprint 'any'",
          )

  def _record(self):
    """Writes who answers and how it is asked, for a run that resumes."""
    told = {'origin': self._origin, 'way': self._way}
    atomic_files.write_json(self._path, told)

  def __enter__(self) -> 'Answerer':
    return self

  def __exit__(self, *unused: Any) -> None:
    self.close()

  def stop(self) -> None:
    """Sends no more requests; those under way end, and are kept."""
    self._client.close()

  def close(self) -> None:
    """Closes the folder, once no request is under way; says what was spent."""
    self.stop()
    self._budget.close()
    self._replies.close()
    self._say(f'{self.url}: {self._budget.told()} since the folder was made')
