"""Compares the average with its definition in float64."""

import numpy as np

from kd.optimizers import averaging


def test_the_average_equals_its_definition():
  rng = np.random.default_rng(0)
  series = rng.normal(size=(40, 3)).astype(np.float32)
  average, expected = averaging.init({'w': series[0]}), np.float64(series[0])
  for t in range(1, 40):
    is_skipped = t % 7 == 0
    average = averaging.update(
      average, {'w': series[t]}, 0.75, np.int32(t), np.bool_(not is_skipped)
    )
    if not is_skipped:
      decay = min(0.75, (1 + t) / (10 + t))
      expected = decay * expected + (1 - decay) * series[t]
    np.testing.assert_allclose(average['w'], expected, rtol=1e-5, atol=1e-6)
