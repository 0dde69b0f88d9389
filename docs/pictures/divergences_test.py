"""What the fits of the picture come to, against what theory says."""

import numpy as np
import pytest

from docs.pictures import divergences

MEANS = [mean for _, mean, _ in divergences.MODES]


@pytest.fixture(scope='module')
def fits():
  panels = divergences.COVER | divergences.SEEK
  return {title: divergences.fit(spec) for title, spec in panels.items()}


def test_forward_kl_matches_mean_and_width(fits):
  # A Gaussian's least forward KL is where its moments are the teacher's.
  np.testing.assert_allclose(
    divergences.moments(fits['forward KL']),
    divergences.moments(divergences.teacher_log_probs()),
    rtol=1e-3,
  )


def test_reverse_kl_matches_the_heavier_mode(fits):
  weight, mean, width = max(divergences.MODES)
  log_q = fits['reverse KL']
  np.testing.assert_allclose(
    divergences.moments(log_q), (mean, width), rtol=0.01
  )
  # What it gives up is the other mode's share.
  log_ratio = log_q - divergences.teacher_log_probs()
  loss = (np.exp(log_q) * log_ratio).sum()
  np.testing.assert_allclose(loss, -np.log(weight), rtol=0.01)


def test_rows_are_titled_by_their_effect(fits):
  for title in divergences.COVER:
    mean, width = divergences.moments(fits[title])
    assert MEANS[0] + 20 < mean < MEANS[1] - 20 and width > 30, title
  for title in divergences.SEEK:
    mean, width = divergences.moments(fits[title])
    assert abs(mean - MEANS[0]) < 5 and width < 16, title


def test_the_picture_is_small(fits, tmp_path):
  path = tmp_path / 'divergences.png'
  divergences.draw(fits, str(path))
  data = path.read_bytes()
  assert data.startswith(b'\x89PNG') and len(data) < 150_000
