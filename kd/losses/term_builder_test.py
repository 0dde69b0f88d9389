"""Wrong terms raise errors that name the field."""

import pytest

from kd.config import base
from kd.core import errors
from kd.losses import term_builder
from kd.losses import terms

KL = base.term('forward_kl', weight=0.7, temperature=2.0).to_dict()
CE = base.term('cross_entropy', weight=0.3).to_dict()
SIZES = terms.Sizes(2, 8, 2, 1, 4, 0.5, (None, None))
CONTEXT = terms.Context(steps=100, student=SIZES, teacher=SIZES)

WRONG = [
  (dict(KL, name='forwrd_kl'), ('losses.a.name', 'forward_kl')),
  (dict(KL, temprature=1.0), ('losses.a.temprature', 'temperature')),
  (
    {k: v for k, v in KL.items() if k != 'temperature'},
    ('losses.a.temperature', 'missing'),
  ),
  (dict(KL, weight=-1.0), ('losses.a.weight', '0 or more')),
  (dict(KL, weight='1'), ('losses.a.weight', 'a number, or a schedule')),
  (dict(KL, temperature=0.0), ('losses.a.temperature', 'above 0')),
  (
    dict(KL, temperature=dict(name='lineer', begin=1, end=2)),
    ('losses.a.temperature.name', 'linear'),
  ),
  (dict(KL, part='answers'), ('losses.a.part', 'answer')),
  (dict(KL, clip=-1.0), ('losses.a.clip', '0 or more')),
  ({'name': 'cross_entropy'}, ('losses.a.weight', 'missing')),
  (dict(CE, label_smoothing=1.0), ('losses.a.label_smoothing', '[0, 1)')),
  (
    base.term('jensen_shannon', beta=1.0).to_dict(),
    ('losses.a.beta', 'reverse_kl'),
  ),
  (
    base.term('hidden_states', map='adaptive').to_dict(),
    ('losses.a.remap_every', 'above 0'),
  ),
  (base.term('hidden_states', pairs=3).to_dict(), ('losses.a.pairs', '1 to 2')),
  (
    base.term('attention_relations', relation_heads=3).to_dict(),
    ('losses.a.relation_heads',),
  ),
]


@pytest.mark.parametrize('spec,words', WRONG)
def test_wrong_terms_are_named(spec, words):
  with pytest.raises(errors.ConfigError) as e:
    term_builder.build({'a': spec}, CONTEXT)
  assert all(word in str(e.value) for word in words), str(e.value)


def test_terms_that_need_a_teacher_are_refused_without_one():
  alone = terms.Context(steps=10, student=SIZES, teacher=None)
  for name in ('forward_kl', 'hidden_states', 'attention_maps'):
    with pytest.raises(errors.ConfigError, match='needs a teacher'):
      term_builder.build({'a': base.term(name).to_dict()}, alone)
