"""Keeps the turns of a dialogue and renders them for each answer."""

from kd.core import errors
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers


class Dialogue:
  """The most recent messages and answers that fit into the context.

  Attributes:
    system_text: text before the first message; '': none.
  """

  def __init__(
    self, tokenizer: tokenizers.Tokenizer, template: str, longest: int
  ):
    """Starts a dialogue.

    Args:
      tokenizer: the tokenizer.
      template: name of the template. With one without turns, each prompt
        contains only its message.
      longest: maximum number of ids of a prompt.

    Raises:
      ConfigError: the tokenizer does not support the template.
    """
    templates.check_tokenizer(tokenizer, template)
    self._tokenizer, self._template = tokenizer, template
    self._longest = longest
    self._exchanges: list[list[templates.Message]] = []
    self.system_text = ''

  def prompt(self, message: str) -> tuple[list[int], int]:
    """Returns the ids of the dialogue with a new message.

    If the dialogue is too long, its oldest exchanges are dropped permanently.

    Args:
      message: the new message of the user.

    Returns:
      The ids, and the number of exchanges dropped.

    Raises:
      ConfigError: the message is too long by itself, or is not valid Unicode.
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
    """Drops all messages and answers, but not the system text."""
    self._exchanges = []
