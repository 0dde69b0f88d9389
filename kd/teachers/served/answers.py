"""Requests answers from a model on a server, and stores each reply."""

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
from kd.teachers.served import prompt_scorer
from kd.teachers.served import replies as replies_lib

FILE = 'answered_by.json'
CHAT, COMPLETIONS = 'chat', 'completions'

_PATHS = {CHAT: '/chat/completions', COMPLETIONS: '/completions'}
# Upper bound of the tokens that a chat template adds to each message.
_TEMPLATE_TOKENS = 256
_TOO_LONG = re.compile('context|too long|at most [0-9,]+ together', re.I)
_ABOUT_N = re.compile(r'\bn\b|choices?\b|answers', re.I)
_SEEDS = 2**31


@dataclasses.dataclass(frozen=True)
class Answer:
  """One answer.

  Attributes:
    text: text of the answer.
    finish: the server's finish reason ('stop' or 'length' in OpenAI's API), or
      'too_long' if the prompt exceeds the model's context.
  """

  text: str
  finish: str


@dataclasses.dataclass(frozen=True)
class Reply:
  """The reply to one request.

  Attributes:
    answers: one or more answers to the prompt.
    date: time of the reply, as from run_info.now.
    model: name of the model in the reply.
    fingerprint: `system_fingerprint` of the reply; '' if it has none.
    prompt_tokens: number of tokens of the prompt; None if it is not reported.
    generated_tokens: likewise, for all answers together.
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
    """Returns the reply that `to_bytes` encoded."""
    fields = json.loads(data)
    answers = tuple(Answer(**answer) for answer in fields.pop('answers'))
    return cls(answers, **fields)


class Answerer:
  """Answers prompts with one model on a server; thread-safe.

  Attributes:
    model: name of the model.
    url: URL of the server.
  """

  def __init__(
    self,
    spec: Mapping[str, Any],
    folder: str,
    api: str,
    settings: requests.SamplingSettings,
    say: Callable[[str], None],
  ):
    """Opens the folder, and looks up the server's model if none is configured.

    Args:
      spec: the config's section teacher.server.
      folder: folder of the replies and of the budget's counts.
      api: CHAT or COMPLETIONS.
      settings: sampling settings; those outside OpenAI's API are sent only if
        they differ from their neutral values.
      say: function called with lines for the user.

    Raises:
      ConfigError: another run has the folder open, or a field is wrong.
      ReadError: the server cannot be reached.
    """
    self._api, self._settings, self._say = api, settings, say
    self._same = prompt_scorer.compared(spec['fingerprint'])
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
      (spec['url'], *spec['replicas']),
      spec['key_variable'],
      client_lib.Patience(*patience),
      self._budget,
    )
    self.url = self._client.url
    try:
      self.model = spec['model']
      if not self.model:
        self.model = probe.chosen('', probe.models(self._client))
      # Identity of the model, and request options that the server accepts.
      self._origin = {}
      self._options = {'most': 2**16, 'limit': 'max_tokens', 'seeds': True}
      if os.path.exists(self._path):
        recorded = json_files.read(self._path, path)
        self._origin = recorded.get('origin', {})
        self._options |= recorded.get('way', {})
    except BaseException:
      self.close()
      raise

  def __call__(
    self, messages: Sequence[templates.Message], seed: int, samples: int
  ) -> list[Reply]:
    """Returns replies that together contain the requested number of answers.

    Further requests are sent if a reply has fewer answers than requested.

    Args:
      messages: messages of the prompt, with only role and content. COMPLETIONS
        continues the text of a single message.
      seed: seed of the first answer, 0 or more.
      samples: number of answers.

    Raises:
      ConfigError: the budget is spent, another model answers, or the server
        refuses the request.
      ReadError: the server cannot be reached.
    """
    found, count = [], 0
    while count < samples:
      reply = self._reply(messages, (seed + count) % _SEEDS, samples - count)
      found.append(reply)
      count += len(reply.answers)
    return found

  def _reply(self, messages, seed, samples):
    while True:
      asked = min(samples, self._options['most'])
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
    """Sends one request and returns its reply with 1 to `samples` answers.

    Raises:
      RefusedError, ConfigError, ReadError: from the client.
    """
    settings = self._settings
    body = {'model': self.model, 'n': samples}
    body[self._options['limit']] = settings.max_new_tokens
    body['temperature'] = settings.temperature
    if self._api == CHAT:
      body['messages'] = list(messages)
    else:
      (message,) = messages
      body['prompt'] = message['content']
    if self._options['seeds']:
      body['seed'] = seed
    if settings.stop_strings:
      body['stop'] = list(settings.stop_strings)
    neutral = {'top_k': 0, 'top_p': 1, 'min_p': 0, 'repetition_penalty': 1}
    for name, value in neutral.items():
      if getattr(settings, name) != value:
        body[name] = getattr(settings, name)
    # The number of bytes is an upper bound of the number of tokens.
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
    """Drops an option that the server refused; returns whether to retry."""
    with self._lock:
      options, limit, line = self._options, 'max_completion_tokens', ''
      if limit in problem and options['limit'] != limit:
        options['limit'] = limit
      elif re.search(r'\bseed\b', problem) and options['seeds']:
        options['seeds'] = False
        line = 'it does not support seeds: answers are not reproducible'
      elif asked > 1 and _ABOUT_N.search(problem):
        # A concurrent request may have lowered it already.
        options['most'] = min(options['most'], asked // 2)
        line = f'it returns at most {options["most"]} answers per request'
      else:
        return False
      self._record()
    if line:
      self._say(f'  {self.url}: {line}')
    return True

  def _check(self, reply):
    """Raises ConfigError if the reply is from another model than before."""
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
    """Saves the model's identity and the request options for a resumed run."""
    recorded = {'origin': self._origin, 'way': self._options}
    atomic_files.write_json(self._path, recorded)

  def __enter__(self) -> 'Answerer':
    return self

  def __exit__(self, *unused: Any) -> None:
    self.close()

  def stop(self) -> None:
    """Sends no more requests; replies to those under way are still stored."""
    self._client.close()

  def close(self) -> None:
    """Closes the folder and reports the costs; no request may be under way."""
    self.stop()
    self._budget.close()
    self._replies.close()
    costs = self._budget.summary()
    self._say(f'{self.url}: {costs} since the folder was created')
