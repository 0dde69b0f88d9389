"""Formats answers for the OpenAI API, whole or in chunks of a stream."""

from collections.abc import Iterator, Sequence
import dataclasses
import time
from typing import Any
import uuid

from kd.sampling import continuous
from kd.sampling import streaming
from kd.serving import wire
from kd.serving import work as work_lib


@dataclasses.dataclass(frozen=True)
class _Token:
  """A token with its log-probability.

  Attributes:
    id: token id.
    logprob: log-probability; None for the first token of a prompt.
    alternatives: the most likely ids at its position.
  """

  id: int
  logprob: float | None
  alternatives: continuous.Alternatives


class Reply:
  """Formats the answers to one request."""

  def __init__(self, request: wire.Request, work: work_lib.Work):
    """Initializes the reply.

    Args:
      request: the request.
      work: its prompts and answers.
    """
    self._request, self._work = request, work
    kind = 'chatcmpl' if request.is_chat else 'cmpl'
    name = 'chat.completion' if request.is_chat else 'text_completion'
    # OpenAI uses the same name for completions and their chunks.
    self._chunk_name = f'{name}.chunk' if request.is_chat else name
    self._name = name
    self.id = f'{kind}-{uuid.uuid4().hex}'
    self._created = int(time.time())
    # The parts already sent in a stream, by index of the choice.
    self._streams: dict[int, streaming.Stream] = {}
    self._sent: dict[int, int] = {}
    self._offsets: dict[int, int] = {}

  def whole(self) -> dict[str, Any]:
    """Returns the body of a reply without streaming."""
    choices = []
    for number, prompt in enumerate(self._work.prompts):
      if not prompt.answers:
        choices.append(self._scored(number) | self._of_prompt(number))
      for index in range(len(prompt.answers)):
        choice = self._choice(number, index)
        choices.append(choice | self._of_prompt(number))
    body = self._body(self._name, choices)
    return {**body, 'usage': self.usage()}

  @property
  def work(self) -> work_lib.Work:
    """Returns the request's prompts and answers."""
    return self._work

  def usage(self) -> dict[str, int]:
    """Returns the numbers of tokens, including the stop ids of answers."""
    prompts = sum(len(prompt.ids) for prompt in self._work.prompts)
    answers = sum(
      len(answer.result.all_ids)
      for prompt in self._work.prompts
      for answer in prompt.answers
      if answer.result
    )
    return {
      'prompt_tokens': prompts,
      'completion_tokens': answers,
      'total_tokens': prompts + answers,
    }

  def texts(self) -> Iterator[str]:
    """Yields the texts of the answers."""
    for prompt in self._work.prompts:
      for answer in prompt.answers:
        yield answer.result.text if answer.result else ''

  def first_chunks(self) -> Iterator[dict[str, Any]]:
    """Yields the first chunks of a stream: the roles of a chat."""
    if self._request.is_chat:
      for index in range(self._request.samples):
        delta = {'role': 'assistant', 'content': ''}
        yield self._chunk(self._delta(index, delta, None, None))

  def chunks(self, event: work_lib.Event) -> Iterator[dict[str, Any]]:
    """Yields the chunks of an event; none while its text is held back."""
    prompt = self._work.prompts[event.prompt]
    if event.answer is None:
      if not prompt.answers:
        yield self._chunk(self._scored(event.prompt))
      return
    answer = prompt.answers[event.answer]
    index = event.prompt * self._request.samples + event.answer
    text, begin = '', self._sent.get(index, 0)
    if index not in self._streams:
      self._streams[index] = streaming.Stream(
        self._work.model.tokenizer.decode, self._request.settings.stop_strings
      )
      text = self._echoed(event.prompt)
    stream = self._streams[index]
    finish = None
    if event.ended:
      text += stream.end(answer.result.text)
      finish = answer.result.finish
    else:
      text += stream.add(answer.grown.ids[: event.count])
    tokens = self._tokens(event, begin)
    self._sent[index] = event.count
    if not text and not finish and not tokens:
      return
    logprobs = self._logprobs(index, tokens)
    if self._request.is_chat:
      delta = {'content': text} if text or not finish else {}
      yield self._chunk(self._delta(index, delta, logprobs, finish))
    else:
      yield self._chunk(self._text_choice(index, text, logprobs, finish))

  def usage_chunk(self) -> dict[str, Any]:
    """Returns the chunk with the numbers of tokens."""
    return {**self._body(self._chunk_name, []), 'usage': self.usage()}

  def _body(self, name, choices):
    return {
      'id': self.id,
      'object': name,
      'created': self._created,
      'model': self._work.model.name,
      'choices': choices,
    }

  def _chunk(self, choice):
    return self._body(self._chunk_name, [choice])

  def _echoed(self, number: int) -> str:
    """Returns the text of a prompt if the answers start with it, else ''."""
    return self._request.prompts[number].text if self._request.echo else ''

  def _choice(self, number, index):
    """Returns the choice of a finished answer."""
    result = self._work.prompts[number].answers[index].result
    index_of_all = number * self._request.samples + index
    event = work_lib.Event(number, index, len(result.ids), ended=True)
    tokens = self._tokens(event, 0)
    logprobs = self._logprobs(index_of_all, tokens)
    if not self._request.is_chat:
      text = self._echoed(number) + result.text
      return self._text_choice(index_of_all, text, logprobs, result.finish)
    return {
      'index': index_of_all,
      'message': {'role': 'assistant', 'content': result.text},
      'logprobs': logprobs,
      'finish_reason': result.finish,
    }

  def _scored(self, number):
    """Returns the choice of a prompt without an answer."""
    index = number * self._request.samples
    tokens = self._prompt_tokens(number)
    logprobs = self._logprobs(index, tokens)
    return self._text_choice(index, self._echoed(number), logprobs, 'length')

  def _of_prompt(self, number):
    """Returns the log-probabilities of the prompt in the format of vLLM.

    The rank of a token that is not among the most likely ones is None.
    """
    most = self._request.prompt_alternatives
    if most is None:
      return {}
    name = self._work.model.token_text
    told = []
    for token in self._prompt_tokens(number):
      if token.logprob is None:
        told.append(None)
        continue
      best = token.alternatives[:most]
      ranks = {i: rank for rank, (i, _) in enumerate(best, 1)}
      logprobs = {**dict(best), token.id: token.logprob}
      told.append(
        {
          str(i): {
            'logprob': logprob,
            'rank': ranks.get(i),
            'decoded_token': name(i),
          }
          for i, logprob in logprobs.items()
        }
      )
    return {'prompt_logprobs': told}

  def _text_choice(self, index, text, logprobs, finish):
    return {
      'index': index,
      'text': text,
      'logprobs': logprobs,
      'finish_reason': finish,
    }

  def _delta(self, index, delta, logprobs, finish):
    return {
      'index': index,
      'delta': delta,
      'logprobs': logprobs,
      'finish_reason': finish,
    }

  def _prompt_tokens(self, number) -> list[_Token]:
    """Returns the tokens of a scored prompt; [] if it was not scored."""
    prompt = self._work.prompts[number]
    if not prompt.scored:
      return []
    first = _Token(prompt.ids[0], None, ())
    rest = zip(
      prompt.ids[1:],
      prompt.read.logprobs,
      prompt.read.alternatives,
      strict=True,
    )
    return [first, *(_Token(*values) for values in rest)]

  def _tokens(self, event: work_lib.Event, begin: int) -> list[_Token]:
    """Returns the tokens of an answer from `begin`, after an echoed prompt's.

    Includes a stop id, because clients that score expect one token per step.
    The answer may be longer than at the time of the event.
    """
    if self._request.alternatives is None:
      return []
    answer = self._work.prompts[event.prompt].answers[event.answer]
    echoes = self._request.echo and not begin
    tokens = self._prompt_tokens(event.prompt) if echoes else []
    end = event.count
    tokens += map(
      _Token,
      answer.grown.ids[begin:end],
      answer.grown.logprobs[begin:end],
      answer.alternatives[begin:end],
    )
    if event.ended and answer.stop_logprob is not None:
      stop_id = answer.result.stop_id
      tokens.append(
        _Token(stop_id, answer.stop_logprob, answer.alternatives[end])
      )
    return tokens

  def _logprobs(self, index: int, tokens: Sequence[_Token]):
    """Returns the log-probabilities of tokens in the endpoint's format."""
    most = self._request.alternatives
    if most is None:
      return None
    name = self._work.model.token_text
    if self._request.is_chat:
      entry = lambda i, logprob: {
        'token': name(i),
        'logprob': logprob,
        'bytes': list(name(i).encode()),
      }
      content = [
        {
          **entry(token.id, token.logprob),
          'top_logprobs': [entry(*a) for a in token.alternatives[:most]],
        }
        for token in tokens
      ]
      return {'content': content, 'refusal': None}
    offset = self._offsets.get(index, 0)
    offsets = []
    for token in tokens:
      offsets.append(offset)
      # BOS and stop ids have a name but no text.
      offset += len(self._work.model.tokenizer.decode([token.id]))
    self._offsets[index] = offset
    return {
      'tokens': [name(token.id) for token in tokens],
      'token_logprobs': [token.logprob for token in tokens],
      'top_logprobs': [self._best(token, most) for token in tokens],
      'text_offset': offsets,
    }

  def _best(self, token, most):
    """Returns log-probabilities of the best tokens and the token, by text."""
    if token.logprob is None:
      return None
    name = self._work.model.token_text
    best = {name(i): logprob for i, logprob in token.alternatives[:most]}
    return {**best, name(token.id): token.logprob}
