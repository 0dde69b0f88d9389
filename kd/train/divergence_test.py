"""What a user is told to do about steps that are not finite."""

from kd.train import divergence

NEW = 'train in a new workdir with a lower optimizer.lr.peak'
SKIP = 'or skip such steps with --config.nonfinite=skip'


def test_a_checkpoint_of_the_same_parameters_is_at_fault():
  # Step 3 is not finite, as the parameters after update 2 give it.
  said = divergence.advice(2, [0, 1, 2], 1, '/w/checkpoints')
  assert said == (
    'the parameters of the last checkpoint give this result '
    '(/w/checkpoints/2); the same command ends at this step again; the last '
    f'good checkpoint is 1, the best so far is 1; {NEW}, or remove '
    f'/w/checkpoints/2, {SKIP}'
  )


def test_all_checkpoints_since_the_last_change_are_at_fault():
  # Steps 3 to 5 were skipped, and checkpoints saved meanwhile.
  said = divergence.advice(2, [1, 2, 4], None, 'c')
  assert '(c/2, c/4)' in said and 'good checkpoint is 1;' in said
  said = divergence.advice(2, [2, 4], 2, 'c')
  assert '(c/2, c/4)' in said and 'good' not in said and 'remove' not in said


def test_an_earlier_checkpoint_is_not_at_fault():
  said = divergence.advice(9, [4, 8], 4, 'c')
  assert said.startswith('checkpoint 8 was saved before and gave a finite step')
  assert 'remove' not in said and NEW in said
  assert divergence.advice(0, [], None, 'c').startswith('no checkpoint')
