"""Reads requests of the OpenAI API; errors name the invalid field."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import secrets
from typing import Any

from kd.config import legal
from kd.config.fields import sampling as sampling_fields
from kd.core import errors
from kd.sampling import continuous
from kd.sampling import requests
from kd.serving import prompts as prompts_lib
from kd.serving import served_model
from kd.serving import work as work_lib

_MOST_STOPS = 16
_MOST_ALTERNATIVES = legal.Integer(0, continuous.ALTERNATIVES)
_DEFAULT_TOKENS = 16  # OpenAI's default of /v1/completions.
_STOP = legal.Matching('(?s).+', 'text of one character or more')

# Fields of both endpoints.
_COMMON = {
  'model': legal.TEXT,
  'temperature': sampling_fields.TEMPERATURE,
  'top_p': legal.Number(above=0, at_most=1),
  'min_p': legal.Number(at_least=0, below=1),
  'seed': legal.SEED,
  'stream': legal.BOOLEAN,
  'user': legal.TEXT,
  'timeout_ms': legal.Integer(1, 86_400_000),
}
# Fields with one legal value, which has no effect.
_NEUTRAL = {
  'presence_penalty': 0,
  'frequency_penalty': 0,
  'logit_bias': {},
  'store': False,
  'metadata': {},
}
_NEUTRAL_COMPLETION = _NEUTRAL | {'suffix': ''}
_NEUTRAL_CHAT = _NEUTRAL | {
  'response_format': {'type': 'text'},
  'tools': [],
  'functions': [],
  'modalities': ['text'],
}
_PROMPT_LOGPROBS = 'prompt_logprobs'  # vLLM's extension of /v1/completions.
_READ_ELSEWHERE = ('max_tokens', 'n', 'stop', 'stream_options')


@dataclasses.dataclass(frozen=True)
class Request:
  """A valid request.

  Attributes:
    model: model that answers.
    is_chat: whether the endpoint is /v1/chat/completions.
    prompts: prompts of the request.
    settings: sampling settings.
    samples: number of answers to each prompt.
    seed: random seed; prompt i is answered as line i of a file by
      --mode=generate with this generate.seed.
    max_tokens: maximum number of tokens of each answer; 0: the prompts are only
      scored.
    alternatives: number of most likely ids returned with each token; None: no
      log-probabilities.
    prompt_alternatives: number of most likely ids returned with each token of
      the prompts, by id; None: none.
    echo: whether answers start with their prompts.
    stream: whether answers are sent in parts as they are generated.
    include_usage: whether a stream ends with the numbers of tokens.
    client: field `user` of the request.
    timeout_s: maximum time to the first token, in seconds.
  """

  model: served_model.ServedModel
  is_chat: bool
  prompts: Sequence[prompts_lib.Prompt]
  settings: requests.SamplingSettings
  samples: int
  seed: int
  max_tokens: int
  alternatives: int | None
  prompt_alternatives: int | None
  echo: bool
  stream: bool
  include_usage: bool
  client: str
  timeout_s: float

  def work(self, address: str) -> work_lib.Work:
    """Returns the work for the scheduler.

    Args:
      address: address of the client.
    """
    wants = self.alternatives is not None
    scored = self.echo and wants or self.prompt_alternatives is not None
    prompts = []
    for number, prompt in enumerate(self.prompts):
      asked = requests.numbered(
        *(prompt.ids, self.seed, number, self.samples, prompt.images)
      )
      count = self.samples if self.max_tokens else 0
      answers = [
        continuous.Answer(asked, sample, self.settings, wants)
        for sample in range(count)
      ]
      prompts.append(
        work_lib.Prompt(prompt.ids, answers, scored, images=prompt.images)
      )
    return work_lib.Work(self.model, prompts, f'{address} {self.client}')


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of a request.

  Attributes:
    answers: maximum number of answers.
    timeout_s: default of the maximum time to the first token, in seconds.
    images: limits of the images.
  """

  answers: int
  timeout_s: float
  images: prompts_lib.ImageLimits


def read(
  body: bytes,
  is_chat: bool,
  pick: Callable[[str | None], served_model.ServedModel],
  limits: Limits,
) -> Request:
  """Reads a request.

  Args:
    body: body of the HTTP request.
    is_chat: whether the endpoint is /v1/chat/completions.
    pick: returns the model for a name, or for None if there is no name.
    limits: limits of the request.

  Raises:
    ConfigError: a field is invalid; the error names it.
  """
  fields = _object(body, is_chat)
  model = pick(_get(fields, 'model', legal.TEXT, None))
  samples = _get(fields, 'n', legal.Integer(1, limits.answers), 1)
  if is_chat:
    messages = fields.get('messages')
    prompts = [prompts_lib.chat(messages, model, limits.images)]
  else:
    prompts = prompts_lib.completions(fields.get('prompt'), model)
  _check_count(fields, len(prompts), samples, limits.answers)
  echo = not is_chat and _get(fields, 'echo', legal.BOOLEAN, False)
  max_tokens = _max_tokens(fields, is_chat, echo, prompts, model)
  stream = _get(fields, 'stream', legal.BOOLEAN, False)
  if stream and _PROMPT_LOGPROBS in fields:
    raise errors.ConfigError(
      _PROMPT_LOGPROBS, 'given with stream', 'one of the two'
    )
  read_alternatives = _chat_alternatives if is_chat else _alternatives
  client_timeout = _get(fields, 'timeout_ms', _COMMON['timeout_ms'], None)
  return Request(
    model=model,
    is_chat=is_chat,
    prompts=prompts,
    settings=_settings(fields, max_tokens),
    samples=samples,
    seed=_get(fields, 'seed', legal.SEED, secrets.randbits(32)),
    max_tokens=max_tokens,
    alternatives=read_alternatives(fields),
    prompt_alternatives=_get(
      fields, _PROMPT_LOGPROBS, _MOST_ALTERNATIVES, None
    ),
    echo=echo,
    stream=stream,
    include_usage=_include_usage(fields),
    client=_get(fields, 'user', legal.TEXT, ''),
    timeout_s=(client_timeout or 1000 * limits.timeout_s) / 1000,
  )


def _object(body: bytes, is_chat: bool) -> dict[str, Any]:
  """Returns the fields that are not null; raises if any is unknown."""
  try:
    fields = json.loads(body)
  except (ValueError, RecursionError) as e:
    raise errors.ConfigError('body', f'is not JSON: {e}') from e
  if not isinstance(fields, dict):
    raise errors.ConfigError(
      'body', f'found {legal.shown(fields)}', legal='an object'
    )
  neutral = _NEUTRAL_CHAT if is_chat else _NEUTRAL_COMPLETION
  if is_chat:
    own = ('messages', 'logprobs', 'top_logprobs', 'max_completion_tokens')
  else:
    own = ('prompt', 'echo', 'logprobs', 'best_of', _PROMPT_LOGPROBS)
  known = (*_COMMON, *_READ_ELSEWHERE, *own)
  for name, value in fields.items():
    if name in neutral:
      if value is not None and value != neutral[name]:
        raise errors.ConfigError(
          name,
          f'found {legal.shown(value)}, which is not supported',
          legal=f'{json.dumps(neutral[name])} or no {name}',
        )
    elif name not in known:
      raise errors.unknown(name, 'field', name, (*known, *neutral))
  return {k: v for k, v in fields.items() if v is not None}


def _get(
  fields: Mapping[str, Any], name: str, legal_: legal.Legal, default: Any
) -> Any:
  """Returns the checked value of a field, or the default."""
  if name not in fields:
    return default
  return prompts_lib.checked(name, legal_, fields[name])


def _settings(fields, max_tokens) -> requests.SamplingSettings:
  numbers = {'temperature': 1.0, 'top_p': 1.0, 'min_p': 0.0}
  chosen = {
    name: _get(fields, name, _COMMON[name], default)
    for name, default in numbers.items()
  }
  return dataclasses.replace(
    requests.greedy(max_tokens), stop_strings=_stops(fields), **chosen
  )


def _stops(fields) -> tuple[str, ...]:
  value = fields.get('stop', [])
  if isinstance(value, str):
    return (prompts_lib.checked('stop', _STOP, value),) if value else ()
  if not isinstance(value, list) or len(value) > _MOST_STOPS:
    raise errors.ConfigError(
      'stop',
      f'found {legal.shown(value)}',
      legal=f'text, or a list of at most {_MOST_STOPS}',
    )
  return tuple(
    prompts_lib.checked(f'stop[{i}]', _STOP, text)
    for i, text in enumerate(value)
  )


def _include_usage(fields) -> bool:
  options = fields.get('stream_options', {})
  if not isinstance(options, dict):
    raise errors.ConfigError(
      'stream_options', f'found {legal.shown(options)}', legal='an object'
    )
  for name in options:
    if name != 'include_usage':
      raise errors.unknown(
        f'stream_options.{name}', 'field', name, ['include_usage']
      )
  value = options.get('include_usage', False)
  return prompts_lib.checked(
    'stream_options.include_usage', legal.BOOLEAN, value
  )


def _alternatives(fields) -> int | None:
  return _get(fields, 'logprobs', _MOST_ALTERNATIVES, None)


def _chat_alternatives(fields) -> int | None:
  wanted = _get(fields, 'logprobs', legal.BOOLEAN, False)
  if 'top_logprobs' in fields and not wanted:
    raise errors.ConfigError(
      'top_logprobs', 'given without logprobs', legal='with logprobs true'
    )
  return _get(fields, 'top_logprobs', _MOST_ALTERNATIVES, 0) if wanted else None


def _check_count(fields, prompts, samples, most):
  if prompts * samples > most:
    raise errors.ConfigError(
      'prompt' if prompts > 1 else 'n',
      f'found {prompts} prompts with {samples} answers each',
      legal=f'at most {most} answers in all (serve.max_batch)',
    )
  best_of = _get(fields, 'best_of', legal.POSITIVE, samples)
  if best_of != samples:
    raise errors.ConfigError(
      'best_of', f'found {best_of}', legal=f'{samples}, as n'
    )


def _max_tokens(fields, is_chat, echo, prompts, model) -> int:
  """Returns the maximum tokens of an answer; checks that there is room."""
  longest = max(len(prompt.ids) for prompt in prompts)
  room = model.max_length - longest
  field = 'max_tokens'
  if 'max_completion_tokens' in fields:
    field = 'max_completion_tokens'
    if 'max_tokens' in fields:
      raise errors.ConfigError(
        field, 'given with max_tokens', legal='one of the two'
      )
  # With echo, a request may only score its prompts.
  least = 0 if echo else 1
  default = max(room, least) if is_chat else _DEFAULT_TOKENS
  count = _get(fields, field, legal.Integer(least), default)
  if count > room:
    raise errors.ConfigError(
      'messages' if is_chat else 'prompt',
      f'has {longest} tokens, and {field} is {count}',
      legal=f'at most {model.max_length} together',
    )
  return count
