"""The number of micro-batches that pass through stages."""

import pytest

from kd.models import pipeline


@pytest.mark.parametrize(
  'wanted,rows,stages,expected',
  [
    (0, 32, 2, 8),  # 4 for each stage.
    (0, 6, 2, 6),
    (0, 10, 2, 2),  # 10 would be more than 8.
    (16, 32, 2, 16),
    (16, 8, 2, 8),  # Rows of an evaluation.
    (4, 12, 3, 3),
    (2, 8, 4, 4),
  ],
)
def test_micro_batches_divide_the_rows_of_each_stage(
  wanted, rows, stages, expected
):
  assert pipeline.micro_batches(wanted, rows, stages) == expected
