"""Tests of make_venv: splitting a lock, and one environment per lock."""

import subprocess

import pytest

from tools import make_venv

_LOCK = """# a comment
abc==1.0 \\
    --hash=sha256:00
    # via abc-d
abc-d==2.0 \\
    --hash=sha256:11
"""


def test_split_keeps_hashes_with_their_package():
  wheels, sources = make_venv.split(_LOCK, ['abc-d'])
  assert wheels == 'abc==1.0 \\\n    --hash=sha256:00\n    # via abc-d\n'
  assert sources == 'abc-d==2.0 \\\n    --hash=sha256:11\n'


def test_split_refuses_unknown_packages():
  with pytest.raises(SystemExit, match='not in the lock: abd'):
    make_venv.split(_LOCK, ['abd'])


def test_environments_are_created_once_per_lock(tmp_path, capfd):
  lock = tmp_path / 'x.lock'
  pythons, told = [], []
  for text in ('# one', '# one', '# two'):
    lock.write_text(text)
    make_venv.main([str(lock), str(tmp_path / 'venvs')])
    out, err = capfd.readouterr()
    pythons.append(out.splitlines()[-1])
    told.append('setting up 0 packages of x.lock' in err)
  assert pythons[0] == pythons[1] != pythons[2]
  assert told == [True, False, True]
  command = [pythons[2], '-c', 'import sys; print(sys.prefix)']
  prefix = subprocess.check_output(command, text=True).strip()
  assert prefix == pythons[2].removesuffix('/bin/python')
