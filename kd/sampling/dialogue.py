"""A dialogue with a model: turns kept and written again for each answer."""

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers


class Dialogue:
  """Messages and answers, as far as the model's context has room for them.

  Attributes:
    system_text: what is put in front of the first message; '': none.
  """

  def __init__(
    self, tokenizer: tokenizers.Tokenizer, template: str, longest: int
  ):
    """Starts a dialogue.

    Args:
      tokenizer: gives the ids.
      template: how messages are written. One without turns answers each message
        alone.
      longest: the most ids of a prompt.

    Raises:
      ConfigError: the tokenizer cannot write the template.
    """
    templates.check_tokenizer(tokenizer, template)
    self._tokenizer, self._template = tokenizer, template
    self._longest = longest
    self._exchanges: list[list[templates.Message]] = []
    self.system_text = ''

  def prompt(self, message: str) -> tuple[list[int], int]:
    """Returns the ids of the dialogue with a new message.

    Where they are too many, the oldest exchanges are dropped for good.

    Args:
      message: what the user says next.

    Returns:
      The ids, and how many exchanges were dropped.

    Raises:
      ConfigError: the message is too long alone, or is not valid Unicode.
    """
    for dropped in range(len(self._exchanges) + 1):
      kept = self._exchanges[dropped:]
      ids = self._encode([*sum(kept, []), *templates.exchange(message)])
      if len(ids) <= self._longest:
        self._exchanges = kept
        return ids, dropped
    system = ' with the system text' if self.system_text else ''
    raise errors.ConfigError(
      'message',
      f'takes {len(ids):,} tokens{system}',
      legal=f'at most {self._longest:,}, the context less '
      'generate.max_new_tokens',
    )

  def _encode(self, messages):
    if self.system_text:
      messages = [{'role': 'system', 'content': self.system_text}, *messages]
    return templates.encode_prompt(self._tokenizer, self._template, messages)

  def add(self, message: str, answer: str) -> None:
    """Adds a message and its answer."""
    if templates.has_turns(self._template):
      self._exchanges.append(templates.exchange(message, answer))

  def reset(self) -> None:
    """Forgets all messages and answers; the system text stays."""
    self._exchanges = []
