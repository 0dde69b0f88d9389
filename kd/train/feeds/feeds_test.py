"""Properties of each source of targets in a config."""

import pytest

from kd.config import base
from kd.config import rules
from kd.config.fields import models
from kd.core import errors
from kd.run import source
from kd.train.feeds import cached


def test_every_source_has_its_feed():
  legal = models.TEACHER.children['source'].legal
  for name in legal.names:
    config = base.get_config()
    config.teacher.source = name
    found = source.of(config)
    has_teacher = bool(found.teacher_names())
    assert has_teacher == (name != 'none'), name
    assert bool(found.teacher_specs()) == (name in ('live', 'on_policy')), name
    assert (found.sampling() is not None) == (name in rules.ON_POLICY), name
    assert bool(found.computed_by) == (
      name in ('cached', 'on_policy_server')
    ), name


@pytest.mark.parametrize(
  'term, path',
  [
    (base.term('forward_kl', temperature=2.0), 'losses.kl.temperature'),
    (
      base.term(
        'forward_kl',
        temperature=base.schedule('linear', begin=4.0, end=1.0, last_step=9),
      ),
      'losses.kl.temperature',
    ),
    (base.term('adaptive_kl'), 'losses.kl.name'),
    (base.term('forward_kl'), ''),
    (base.term('cross_entropy'), ''),
  ],
)
@pytest.mark.parametrize('method', ['sampled', 'stratified', 'top_k'])
def test_drawn_ids_support_only_their_temperature_and_1(term, path, method):
  config = base.get_config()
  config.losses = dict(kl=term)
  kept = base.cache_method(method).to_dict()
  if method == 'top_k' or not path:
    cached.check_terms(config, kept)
    return
  with pytest.raises(errors.ConfigError) as e:
    cached.check_terms(config, kept)
  assert e.value.path == path
  if term.temperature == 2.0:
    cached.check_terms(config, kept | {'temperature': 2.0})
