"""Installed packages and the user's code are told apart."""

import os

from kd.core import user_errors


def test_installed_packages_are_recognized_in_any_environment(tmp_path):
  package = tmp_path / 'lib' / 'python3.11' / 'site-packages' / 'theirs.py'
  assert user_errors.is_installed(str(package))
  assert user_errors.is_installed(os.__file__)
  assert not user_errors.is_installed(str(tmp_path / 'mine.py'))
