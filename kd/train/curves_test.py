from matplotlib import pyplot
import numpy as np
import pytest

from kd.evaluation import results
from kd.train import curves


def _result(nll):
  weights = np.full(50, 2.0)
  scores = nll * weights * np.linspace(0.9, 1.1, 50)
  return results.Result(
    {'eval/held_out/nll': scores.sum() / weights.sum()},
    {'held_out': {'weight': weights.tolist(), 'nll': scores.tolist()}},
    [],
    {},
  )


def _ticks(axis):
  """Returns the visible labels of an axis as numbers."""
  low, high = axis.get_view_interval()
  labels = [(x, t.get_text()) for x, t in zip(*_located(axis), strict=True)]
  return [float(text) for x, text in labels if low <= x <= high and text]


def _located(axis):
  axis.figure.canvas.draw()
  minor = axis.get_ticklabels(minor=True)
  assert not any(label.get_text() for label in minor)
  return axis.get_ticklocs(), axis.get_ticklabels()


@pytest.mark.parametrize(
  ('losses', 'scale'),
  [([5.7, 0.8, 0.04], 'log'), ([5.7, 0.1, 0.001], 'log'), ([3, 2.4], 'linear')],
)
def test_axes_have_a_few_round_ticks(tmp_path, monkeypatch, losses, scale):
  figures = []
  monkeypatch.setattr(pyplot, 'close', figures.append)
  student = {3 * i: _result(nll) for i, nll in enumerate(losses)}
  path = str(tmp_path / 'curves.png')
  curves.draw(path, ['held_out'], {'student': student}, None)
  monkeypatch.undo()
  (figure,) = figures
  (axis,) = figure.axes
  assert axis.get_yscale() == scale
  values = _ticks(axis.yaxis)
  assert 3 <= len(values) <= 9
  np.testing.assert_allclose(values, [float(f'{v:.2g}') for v in values])
  steps = _ticks(axis.xaxis)
  assert len(steps) >= 2 and all(step.is_integer() for step in steps)
  pyplot.close(figure)
