import json

import pytest

from kd.core import atomic_files
from kd.core import errors
from kd.run import exits


def _raise_in(folder, error):
  with pytest.raises(type(error)), exits.recorded(str(folder)):
    raise error


def test_the_last_error_is_recorded(tmp_path):
  path = tmp_path / exits.FILE
  for error, code, message in (
    (errors.PreemptedError('SIGTERM'), 42, 'SIGTERM'),
    (errors.NonFiniteError('loss'), 3, 'loss'),
    (KeyError('x'), 1, "KeyError: 'x'"),
    (KeyboardInterrupt(), 1, 'KeyboardInterrupt'),
  ):
    _raise_in(tmp_path, error)
    record = json.loads(path.read_text())
    assert (record['code'], record['error']) == (code, message)
  with exits.recorded(str(tmp_path)):
    assert not path.exists()
  assert not path.exists()


@pytest.mark.parametrize('kind', [OSError, errors.KdError])
def test_a_failed_record_does_not_hide_the_error(tmp_path, monkeypatch, kind):
  def fail(*unused):
    del unused
    raise kind('the disk is full')

  monkeypatch.setattr(atomic_files, 'write_json', fail)
  _raise_in(tmp_path, errors.NonFiniteError('loss'))
