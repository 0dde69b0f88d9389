"""The advice to users about nonfinite values."""

from kd.train import nonfinite_advice

NEW = 'train in a new workdir with a lower optimizer.lr.peak'
AGAIN = 'the same command ends at this step again'


def _advice(unchanged_since, steps, best, folder, teachers=()):
  checkpoints = nonfinite_advice.Checkpoints(steps, best, folder)
  return nonfinite_advice.advice(
    teachers, unchanged_since, 'student.init hf:S', checkpoints
  )


def test_checkpoints_with_the_same_parameters_are_at_fault():
  # Step 3 is not finite because of the parameters after update 2.
  assert _advice(2, [0, 1, 2], 1, '/w/checkpoints') == (
    'the parameters of the last checkpoint cause this '
    f'(/w/checkpoints/2); {AGAIN}; the last good checkpoint is 1, the best so '
    f'far is 1; {NEW}, or remove /w/checkpoints/2'
  )


def test_all_checkpoints_since_the_last_change_are_at_fault():
  # Steps 3 to 5 were skipped while checkpoints were saved.
  said = _advice(2, [1, 2, 4], None, 'c')
  assert '(c/2, c/4)' in said and 'good checkpoint is 1;' in said
  said = _advice(2, [2, 4], 2, 'c')
  assert '(c/2, c/4)' in said and 'good' not in said and 'remove' not in said


def test_earlier_checkpoints_are_not_at_fault():
  said = _advice(9, [4, 8], 4, 'c')
  assert said.startswith('checkpoint 8 was saved before and gave a finite step')
  assert 'remove' not in said and NEW in said
  assert _advice(3, [], None, 'c').startswith('no checkpoint')


def test_nonfinite_initial_weights_and_teachers_are_reported():
  for steps in ([], [1, 2]):  # Also if all steps so far were skipped.
    assert _advice(0, steps, None, 'c') == (
      "the student's initial weights cause this (student.init hf:S); "
      f'{AGAIN}; repair student.init'
    )
  said = _advice(5, [5], None, 'c', teachers=['the teacher (A)'])
  assert 'repair the teacher' in said and 'checkpoint' not in said
