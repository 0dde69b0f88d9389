"""Runs the locked ruff on the checkout: bazelw run //tools:ruff -- check."""

import os
import subprocess
import sys

os.chdir(os.environ['BUILD_WORKSPACE_DIRECTORY'])
command = [sys.executable, '-m', 'ruff', *sys.argv[1:]]
sys.exit(subprocess.run(command, check=False).returncode)
