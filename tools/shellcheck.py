"""Runs the lock's shellcheck on every script: bazelw run //tools:shellcheck."""

import glob
import os
import subprocess
import sys

# Bazel's folder of external repositories is next to that of this one.
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, '..', '..', 'shellcheck', 'python')) as f:
  python = f.read().strip()

os.chdir(os.environ['BUILD_WORKSPACE_DIRECTORY'])
# What launch/lib holds is checked where it is used.
scripts = ['.ci/run', 'bazelw', 'launch/tpu', 'launch/gke']
scripts += sorted(glob.glob('launch/worker/*.sh'))
command = [os.path.join(os.path.dirname(python), 'shellcheck')]
command += ['--external-sources', '--check-sourced', *scripts]
sys.exit(subprocess.run(command, check=False).returncode)
