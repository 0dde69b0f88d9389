"""Runs the locked shellcheck on all scripts: bazelw run //tools:shellcheck."""

import glob
import os
import subprocess
import sys

# Bazel puts external repositories next to this one.
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, '..', '..', 'shellcheck', 'python')) as f:
  python = f.read().strip()

os.chdir(os.environ['BUILD_WORKSPACE_DIRECTORY'])
# Files in launch/lib are checked with the scripts that source them.
scripts = ['.ci/run', 'bazelw', 'launch/tpu', 'launch/gke']
scripts += sorted(glob.glob('launch/worker/*.sh'))
command = [os.path.join(os.path.dirname(python), 'shellcheck')]
command += ['--external-sources', '--check-sourced', *scripts]
sys.exit(subprocess.run(command, check=False).returncode)
