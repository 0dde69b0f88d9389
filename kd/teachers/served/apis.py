"""Requests for log-probabilities of given ids, by API.

prompt_logprobs: /v1/completions of vLLM and kd; returns ids and texts.
echo: /v1/completions as OpenAI had it; returns only texts, so the mass of an
entry whose text several ids share counts to the tail.
sglang: /generate; returns ids and texts.
llama_cpp: /completion, which returns log-probabilities only of the next token:
one request per position; returns ids and texts.
"""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd.teachers.served import vocabulary as vocabulary_lib

# API of a server by `owned_by` in its list of models.
OWNERS = {
  'vllm': 'prompt_logprobs',
  'kd': 'prompt_logprobs',
  'sglang': 'sglang',
  'llamacpp': 'llama_cpp',
}
_BIAS = 1e6


class MalformedError(Exception):
  """A reply lacks requested values."""


@dataclasses.dataclass(frozen=True)
class Position:
  """Log-probabilities that a server returns for one position.

  Attributes:
    logprobs: log-probabilities by id: those of the likeliest ids, and that of
      the actual one if the server returns it.
    texts: texts by id, if the server returns them.
    unnamed: number of entries with an unknown id.
  """

  logprobs: Mapping[int, float]
  texts: Mapping[int, str]
  unnamed: int = 0


@dataclasses.dataclass(frozen=True)
class ParsedReply:
  """A parsed reply.

  Attributes:
    positions: the positions after each id of the prompt but the last.
    model: name of the model in the reply, if any.
    fingerprint: `system_fingerprint` of the reply, if any.
  """

  positions: Sequence[Position]
  model: str = ''
  fingerprint: str = ''


class Api(abc.ABC):
  """An API.

  Attributes:
    path: path of a request; see client.Client.post.
    by_position: whether a reply covers only the last position.
  """

  path = '/completions'
  by_position = False

  def __init__(self, model: str, vocabulary: vocabulary_lib.Vocabulary):
    """Initializes the API.

    Args:
      model: name of the model.
      vocabulary: vocabulary of the tokenizer.
    """
    self._model, self._vocabulary = model, vocabulary

  @abc.abstractmethod
  def body(
    self, ids: Sequence[int], most: int, generated: int, temperature: float
  ) -> dict[str, Any]:
    """Returns the fields of a request.

    Args:
      ids: the prompt and, if `by_position`, the actual id after it.
      most: number of likeliest ids per position.
      generated: number of tokens to generate, 0 or 1.
      temperature: sampling temperature, which should not affect the
        log-probabilities.
    """

  @abc.abstractmethod
  def read(self, reply: Any, ids: Sequence[int]) -> ParsedReply:
    """Reads a reply.

    Args:
      reply: parsed JSON.
      ids: as for `body`.

    Raises:
      MalformedError, KeyError, IndexError, TypeError, ValueError, or
      AttributeError: the reply lacks requested values.
      ConfigError: its tokens are not the tokenizer's.
    """

  def _completion(self, ids, generated, temperature):
    return {
      'model': self._model,
      'prompt': list(ids),
      'max_tokens': generated,
      'temperature': temperature,
      'echo': True,
    }


def _origin(reply):
  return reply.get('model') or '', reply.get('system_fingerprint') or ''


class PromptLogprobs(Api):
  """vLLM's prompt_logprobs."""

  def body(self, ids, most, generated, temperature):
    fields = self._completion(ids, generated, temperature)
    return fields | {'prompt_logprobs': most}

  def read(self, reply, ids):
    prompt_logprobs = reply['choices'][0]['prompt_logprobs']
    if prompt_logprobs is None or len(prompt_logprobs) != len(ids):
      raise MalformedError('prompt_logprobs')
    positions = []
    for entries in prompt_logprobs[1:]:
      logprobs = {int(i): float(x['logprob']) for i, x in entries.items()}
      texts = {int(i): x.get('decoded_token') for i, x in entries.items()}
      texts = {i: text for i, text in texts.items() if text}
      positions.append(Position(logprobs, texts))
    return ParsedReply(positions, *_origin(reply))


class Echo(Api):
  """OpenAI's completions that echo the prompt."""

  def body(self, ids, most, generated, temperature):
    fields = self._completion(ids, generated, temperature)
    return fields | {'logprobs': most}

  def read(self, reply, ids):
    scored = reply['choices'][0]['logprobs']
    tokens, of_tokens = scored['tokens'], scored['token_logprobs']
    if len(tokens) < len(ids):
      raise MalformedError('logprobs of the prompt')
    positions = []
    for at in range(1, len(ids)):
      self._vocabulary.check(ids[at], tokens[at], at)
      logprobs, unnamed = {}, 0
      for text, logprob in scored['top_logprobs'][at].items():
        index = ids[at] if text == tokens[at] else self._vocabulary.id_of(text)
        if index is None:
          unnamed += 1
        else:
          logprobs[index] = float(logprob)
      logprobs[ids[at]] = float(of_tokens[at])
      positions.append(Position(logprobs, {}, unnamed))
    return ParsedReply(positions, *_origin(reply))


class Sglang(Api):
  """SGLang's own endpoint; its completions merge tokens with the same text."""

  path = '/../generate'

  def body(self, ids, most, generated, temperature):
    return {
      'input_ids': list(ids),
      'sampling_params': {
        'max_new_tokens': generated,
        'temperature': temperature,
      },
      'return_logprob': True,
      'logprob_start_len': 0,
      'top_logprobs_num': most,
      'return_text_in_logprobs': True,
    }

  def read(self, reply, ids):
    info = reply['meta_info']
    actual, likeliest = info['input_token_logprobs'], info['input_top_logprobs']
    if len(actual) != len(ids) or len(likeliest) != len(ids):
      raise MalformedError('input_top_logprobs')
    positions = []
    for own, entries in zip(actual[1:], likeliest[1:], strict=True):
      entries = [*entries, own]
      logprobs = {int(i): float(logprob) for logprob, i, _ in entries}
      texts = {int(i): text for _, i, text in entries if text}
      positions.append(Position(logprobs, texts))
    return ParsedReply(positions, '', str(info.get('weight_version') or ''))


class LlamaCpp(Api):
  """llama.cpp's own endpoint."""

  path = '/../completion'
  by_position = True

  def body(self, ids, most, generated, temperature):
    del generated  # Always one; the reply is empty without it.
    # The reply is empty for a drawn id that ends the text or is half a
    # character. The bias thus draws the actual id, or else a plain one;
    # log-probabilities are computed before the bias.
    drawn = ids[-1]
    if not self._vocabulary.is_plain(drawn):
      drawn = self._vocabulary.plain_id
    return {
      'prompt': list(ids[:-1]),
      'n_predict': 1,
      'n_probs': most,
      'temperature': temperature,
      'logit_bias': [[drawn, _BIAS]],
      'cache_prompt': True,
    }

  def read(self, reply, ids):
    del ids
    token = reply['completion_probabilities'][0]
    entries = [*token['top_logprobs'], token]
    logprobs = {int(x['id']): float(x['logprob']) for x in entries}
    texts = {int(x['id']): x['token'] for x in entries if x['token']}
    return ParsedReply([Position(logprobs, texts)], *_origin(reply))


APIS = {
  'prompt_logprobs': PromptLogprobs,
  'echo': Echo,
  'sglang': Sglang,
  'llama_cpp': LlamaCpp,
}
