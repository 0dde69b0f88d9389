"""A real seqio task scores answers; cut-off is told apart from wrong."""

import numpy as np
import pytest

from kd.core import errors
from kd.evaluation import seqio_adapter
from kd.sampling import requests

MODULE = 'data.mixtures'
TASK = 'arithmetic_cot'
FINISHED = requests.Sample((5,), (0.0,), '', 'stop')
CUT = requests.Sample((5,), (0.0,), '', 'length')
TOO_LONG = requests.Sample((), (), '', 'too_long')

EXAMPLES = [
  {'inputs': 'Q', 'targets': target, 'id': str(i)}
  for i, target in enumerate(
    ['1+2=3 #### 3', b'#### -4', '#### 1,000', '#### 7', '#### 8']
  )
]
# Right; right; wrong; cut off before its answer; nothing generated.
TEXTS = ['2+1=3 #### 3.', '#### \u22124', '#### 100', '3+', '']
SAMPLES = [FINISHED, FINISHED, FINISHED, CUT, TOO_LONG]


def test_scores_and_shares():
  found = seqio_adapter.score(TASK, MODULE, EXAMPLES, TEXTS, SAMPLES)
  assert found['exact_match'] == pytest.approx(2 / 5)
  assert found['truncated'] == pytest.approx(1 / 5)
  assert found['too_long'] == pytest.approx(1 / 5)


def test_each_adds_up_to_the_whole():
  each = seqio_adapter.score_each(TASK, MODULE, EXAMPLES, TEXTS)
  np.testing.assert_array_equal(each['exact_match'], [1, 1, 0, 0, 0])
  whole = seqio_adapter.score(TASK, MODULE, EXAMPLES, TEXTS, SAMPLES)
  assert each['unparsed'].sum() == whole['unparsed']


def test_wrong_names_and_numbers():
  with pytest.raises(errors.ConfigError, match="'arithmetic_cott'.*_cot'"):
    seqio_adapter.score('arithmetic_cott', MODULE, EXAMPLES, TEXTS, SAMPLES)
  with pytest.raises(errors.ConfigError, match="no module 'data.mixtrues'"):
    seqio_adapter.score(TASK, 'data.mixtrues', EXAMPLES, TEXTS, SAMPLES)
  with pytest.raises(ValueError, match='as many of each'):
    seqio_adapter.score(TASK, MODULE, EXAMPLES, TEXTS[:-1], SAMPLES)
  with pytest.raises(ValueError, match='as many of each'):
    seqio_adapter.score(TASK, MODULE, [], [], [])
