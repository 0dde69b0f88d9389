"""The metric that selects the best checkpoint."""

import math

import pytest

from kd.config import base
from kd.config import rules
from kd.core import errors
from kd.input_pipeline import mixtures
from kd.train import best
from kd.train import evaluate


def _config(**changes):
  config = base.get_config()
  config.evaluation.sets = {
    'new': base.evaluation_set(answers=4),
    'arithmetic': base.evaluation_set(),
  }
  config.evaluation.best.update(changes)
  return config


@pytest.mark.parametrize(
  'changes, words, high, low',
  [
    ({}, 'lowest eval/arithmetic/nll', 2.0, 1.0),
    ({'set': 'new'}, 'lowest eval/new/nll', 2.0, 1.0),
    ({'metric': 'agreement'}, 'highest eval/arithmetic/agreement', 1.0, 2.0),
    (
      {'set': 'new', 'metric': 'exact_match'},
      *('highest eval/new/exact_match', 1.0, 2.0),
    ),
    ({'direction': 'max'}, 'highest eval/arithmetic/nll', 1.0, 2.0),
  ],
)
def test_the_best_checkpoint_has_the_lowest_quality_value(
  changes, words, high, low
):
  config = _config(**changes)
  rules.best_is_measured(config)
  chosen = best.choose(config, {})
  assert str(chosen) == words
  quality = lambda value: chosen.quality({chosen.metric: value})
  assert quality(low) < quality(high)
  assert quality(math.nan) is None and chosen.quality({}) is None


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'set': 'nwe'}, "evaluation.best.set: unknown set 'nwe'"),
    ({'metric': 'nil'}, "evaluation.best.metric: unknown metric 'nil'"),
    # The first set has no answers.
    ({'metric': 'exact_match'}, "unknown metric 'exact_match'"),
  ],
)
def test_unmeasured_metrics_are_refused_by_name(changes, words):
  with pytest.raises(errors.ConfigError, match=words):
    rules.check(_config(**changes))


def test_without_a_live_teacher_there_is_no_distance():
  config = _config(metric='kl')
  config.teacher.source = 'none'
  with pytest.raises(errors.ConfigError, match="unknown metric 'kl'"):
    rules.best_is_measured(config)


class _Part:
  task = 'arithmetic_cot'

  def examples(self):
    return [{'targets': '#### 3', 'id': 'a'}]


def test_metrics_of_tasks_are_checked_against_their_functions():
  mixture = mixtures.task('arithmetic_cot', 'kd.data.mixtures')
  held_out = [evaluate.HeldOut('new', mixture, [_Part()], answers=4)]
  chosen = best.check(_config(set='new', metric='exact_match'), held_out)
  assert str(chosen) == 'highest eval/new/exact_match'
  chosen = best.check(_config(set='new', metric='unparsed'), held_out)
  assert str(chosen) == 'lowest eval/new/unparsed'
  with pytest.raises(errors.ConfigError, match="'exact_mtach'.*exact_match"):
    best.check(_config(set='new', metric='exact_mtach'), held_out)
