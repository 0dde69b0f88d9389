"""Prompts shared by training and evaluation are counted once."""

import dataclasses
from typing import Any

from kd.input_pipeline import mixtures
from kd.train import evaluate
from kd.train import shared_prompts


@dataclasses.dataclass
class _Rows:
  kept: Any
  reused: bool = False

  def examples(self):
    return iter(self.kept)


def _pair(text):
  return {'inputs': text, 'targets': 'x', 'rationale': ''}


def _set(name, examples, reused=False):
  mixture = mixtures.task('any', 'any')
  return evaluate.HeldOut(name, mixture, [_Rows(examples, reused)], 0)


def test_shared_prompts_are_counted_when_rows_are_new():
  chat = [{'role': 'system', 'content': 's'}, {'role': 'user', 'content': 'b '}]
  train = [_Rows([_pair('a'), {'messages': chat}]), _Rows([{'text': 'c'}])]
  shares = _set('shares', [_pair('b'), _pair('b'), _pair('d'), {'text': ' c'}])
  apart = _set('apart', [_pair('e')])
  line = 'warning: shares: 2 of 3 prompts are also trained on'
  assert shared_prompts.warnings(train, [shares, apart]) == [line]
  # Texts without a prompt are compared as a whole.
  text = lambda targets: {'inputs': ' ', 'targets': targets, 'rationale': ''}
  prose = _set('prose', [text('a'), text('b')])
  assert not shared_prompts.warnings([_Rows([text('c')])], [prose])
  line = 'warning: prose: 1 of 2 prompts are also trained on'
  assert shared_prompts.warnings([_Rows([text('b')])], [prose]) == [line]
  train = [_Rows([_pair('d')], reused=True)]
  again = _set('again', [_pair('d')], reused=True)
  assert not shared_prompts.warnings(train, [again])
