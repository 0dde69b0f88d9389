"""Texts that begin and end the turns of a chat, one token each."""

from typing import NamedTuple


class Marks(NamedTuple):
  """The two marks of a chat format."""

  start: str
  end: str


GEMMA = Marks('<start_of_turn>', '<end_of_turn>')
CHATML = Marks('<|im_start|>', '<|im_end|>')
ALL = (GEMMA, CHATML)
