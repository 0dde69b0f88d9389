"""System errors end a run with a message, unless they are bugs."""

import os

import pytest

from kd.core import errors


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
  with pytest.raises(OSError) as caught:
    (tmp_path / 'metrics.jsonl').mkdir()
    (tmp_path / 'metrics.jsonl').open()
  error = errors.for_user(caught.value, 'the workdir')
  assert error.exit_code == 1
  assert str(error).startswith(f'{tmp_path}/metrics.jsonl: Is a directory')


def test_errors_unrelated_to_disks_are_raised_again():
  with pytest.raises(OSError, match='Bad file descriptor') as caught:
    os.fstat(12345)
  with pytest.raises(OSError, match='Bad file descriptor'):
    errors.for_user(caught.value, 'the workdir')
