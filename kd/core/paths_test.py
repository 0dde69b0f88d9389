import os

import pytest

from kd.core import paths


def test_the_projects_folder_contains_its_packages():
  folder = paths.expand('{project}/kd/core')
  assert os.path.samefile(folder, os.path.dirname(__file__))


@pytest.mark.parametrize(
  'path', ['/a/{project}/b', 'a~', './~/b', '{project}s/c', 'ü [8]/*']
)
def test_other_paths_are_unchanged(path):
  assert paths.expand(path) == path


def test_a_home_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ada')
  assert paths.expand('~/run') == '/home/ada/run'
