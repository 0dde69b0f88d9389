"""Tests the commands in README, docs, experiments and configs."""

import glob

import pytest

from kd import modes
from kd.modes import check as check_mode
from kd.partitioning import membership
from tests import page_commands

# The test that runs the commands of each page. No test runs the second command
# of docs/trees.md, which needs Gemma 3 270M, the compilations for the table of
# docs/plan.md, experiments, which take from half an hour to days, and commands
# that need TPUs.
_RUN_BY = {
  'README.md': 'readme_slow_test.py',
  'docs/benchmark.md': 'library_slow_test.py',
  'docs/board.md': 'board_test.py',
  'docs/buckets.md': 'bucket_runs_slow_test.py',
  'docs/cache.md': 'cache_slow_test.py',
  'docs/data.md': 'data_docs_slow_test.py',
  'docs/deploy.md': 'deploy_test.py',
  'docs/export.md': 'export_test.py',
  'docs/generate.md': 'generate_test.py',
  'docs/launch.md': 'launch_docs_test.py',
  'docs/lora.md': 'lora_slow_test.py',
  'docs/objective.md': 'docs_commands_test.py',
  'docs/on_policy.md': 'on_policy_slow_test.py',
  'docs/partition.md': 'docs_commands_test.py',
  'docs/plan.md': 'plan_docs_test.py',
  'docs/pruning.md': 'pruning_slow_test.py',
  'docs/quantization.md': 'quantize_slow_test.py',
  'docs/reasoning.md': 'reasoning_slow_test.py',
  'docs/serve.md': 'serve_test.py',
  'docs/served_teachers.md': 'serve_test.py',
  'docs/teacher_prompts.md': 'teacher_prefix_test.py',
  'docs/tour.md': 'readme_slow_test.py',  # README's first command.
  'docs/trees.md': 'search_slow_test.py',
  'docs/versions.md': 'registry_test.py',
  'docs/vision.md': 'vision_test.py',
}
# The reader of docs/data.md writes this file.
_WRITTEN = '--config=my_data/config.py'
_COMMANDS = [
  (place, arguments)
  for place in (
    'README.md',
    *sorted(glob.glob('docs/*.md')),
    *sorted(glob.glob('experiments/*/README.md')),
    *sorted(glob.glob('configs/*.py')),
  )
  for arguments in page_commands.commands(place)
]


@pytest.mark.parametrize(
  'arguments', [c for _, c in _COMMANDS], ids=[place for place, _ in _COMMANDS]
)
def test_configs_and_fields_of_commands_exist(arguments):
  if _WRITTEN in arguments:
    arguments.remove(_WRITTEN)
  _, flags = page_commands.parse(arguments)
  assert flags.keys() <= {'config', 'workdir', 'mode', 'words'}, flags
  mode = modes.get(flags.get('mode', 'train'), '--mode')
  assert mode.arguments or 'words' not in flags, flags


def test_every_page_with_commands_has_a_test_that_runs_them():
  pages = {place for place, _ in _COMMANDS if place.endswith('.md')}
  assert {p for p in pages if not p.startswith('experiments/')} == {*_RUN_BY}
  assert len(_COMMANDS) > 30


@pytest.mark.parametrize('page', ['docs/objective.md', 'docs/partition.md'])
def test_check_mode_accepts_each_command(page, tmp_path):
  """objective_slow_test and processes_slow_test train with such configs."""
  (arguments,) = page_commands.commands(page)
  config, _ = page_commands.parse(arguments)
  config.data.folder = str(tmp_path / 'rows')
  check_mode.main(config, str(tmp_path / 'run'))
  membership.check(config.processes)
