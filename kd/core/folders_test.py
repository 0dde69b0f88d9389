"""Folders that cannot be written are refused before anything is written."""

import os

import pytest

from kd.core import errors
from kd.core import folders


@pytest.mark.parametrize(
  'path', ['/dev/null', '/proc/1/x', '/tmp/' + 'x' * 300]
)
def test_refused(path):
  with pytest.raises(errors.ConfigError) as e:
    folders.check_writable(path, '--workdir')
  assert e.value.path == '--workdir'


def test_a_missing_folder_is_accepted_and_not_created(tmp_path):
  folders.check_writable(str(tmp_path / 'a' / 'b'), '--workdir')
  assert not os.listdir(tmp_path)
