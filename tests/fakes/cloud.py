"""A simulated cloud and the scripts of launch/, for tests."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from tests.fakes import world as world_lib

ROOT = os.getcwd()
_TREE = (
  'requirements.lock',
  'requirements_libtpu.lock',
  'requirements_uv.lock',
  'tools/make_venv.py',
)
_MACHINE = ('gcsfuse', 'python', 'python3', 'python3.11')
# Programs whose calls are not recorded. Starting Python for each of them would
# take most of a test's time.
_SHELL = {
  'hostname': 'echo "t1v-w-$KD_FAKE_WORKER" | tr / -',
  'mountpoint': 'exit 1',
  'curl': """
case "$*" in
  *agent-worker-number) echo "${KD_FAKE_WORKER#*/}" ;;
  *tpu-env)
    echo "ACCELERATOR_TYPE: 'v5litepod-16'"
    case "$KD_FAKE_WORKER" in
      */*) echo "MEGASCALE_SLICE_ID: '${KD_FAKE_WORKER%/*}'" ;;
    esac ;;
  *) echo key ;;
esac""",
  'lsb_release': 'echo jammy',
  'sudo': """
echo "$*" >>"$KD_FAKE_WORLD/sudo.log"
case "$*" in
  tee*) cat >>"$KD_FAKE_WORLD/sudo.log" ;;
  *install*gcsfuse) cp "$KD_FAKE_WORLD/gcsfuse" "${0%/*}/" ;;
esac""",
}
# No waiting by default; a test sets the times that it needs.
_QUICK = (
  '--poll_seconds=0.02',
  '--backoff_seconds=0',
  '--grace_seconds=0',
  '--settle_seconds=0',
)
SETTINGS = {
  'project': 'my-project',
  'zone': 'us-west4-a',
  'name': 'kd-1b',
  'accelerator_type': 'v5litepod-16',
  'runtime_version': 'v2-alpha-tpuv5-lite',
}
GKE_SETTINGS = {
  'context': 'gke_my-project_us-west4_kd',
  'name': 'kd-1b',
  'image': 'us-docker.pkg.dev/my-project/kd/kd:1',
  'machine_type': 'ct5lp-hightpu-4t',
  'topology': '4x4',
}
# Additional flags of the verbs of launch/gke for node pools.
POOL_FLAGS = (
  '--project=my-project',
  '--cluster=kd',
  '--location=us-west4',
  '--zone=us-west4-a',
)


class Cloud(world_lib.World):
  """A simulated cloud with a copy of launch/ that uses it."""

  def __init__(self, root: pathlib.Path, settings=SETTINGS, **plan):
    defaults = {
      'workers': 4,
      'endpoints': plan.get('workers', 4),
      'lives': [['READY']],
      'codes': [[0, 0, 0, 0]],
      'fail': [],
      'mute': [],
      'gcsfuse': '3.5.0',
      # Refuses connections; the script then warns and continues.
      'storage': '127.0.0.1:9',
      'create_fails': 0,
      'missing': [],
      'kubectl_fails': False,
      'root': ROOT,
    }
    unknown = set(plan) - set(defaults)
    assert not unknown, unknown
    (root / 'plan.json').write_text(json.dumps({**defaults, **plan}))
    super().__init__(str(root))
    self._write_programs()
    self.tree = root / 'tree'
    shutil.copytree(os.path.join(ROOT, 'launch'), self.tree / 'launch')
    for path in _TREE:
      (self.tree / path).parent.mkdir(exist_ok=True)
      shutil.copy(os.path.join(ROOT, path), self.tree / path)
    text = ''.join(f'{k}={v}\n' for k, v in settings.items())
    self.settings = root / 'slice.env'
    self.settings.write_text(text)

  def _write_programs(self):
    for name in ('gcloud', 'kubectl', 'ssh'):
      self._program(self.root / 'bin' / name, name, '')
    for name in _MACHINE:
      if name not in self.plan['missing']:
        self._program(self.root / 'machine_bin' / name, 'machine', name)
    # Programs that set-up installs if they are missing.
    for name in ('uv', 'gcsfuse'):
      self._program(self.root / name, 'machine', name)
    # Debian's Python may exist on this machine: shadow it with one that fails.
    pythons = [p for p in self.plan['missing'] if p.startswith('python')]
    shell = {**_SHELL, **dict.fromkeys(pythons, 'exit 127')}
    for name, text in shell.items():
      path = self.root / 'machine_bin' / name
      path.write_text(f'#!/bin/sh\n{text}\n')
      path.chmod(0o755)

  def _program(self, path, module, name):
    path.parent.mkdir(exist_ok=True)
    code = (
      f'import sys; sys.path.insert(0, {ROOT!r}); '
      f'from tests.fakes import {module} as m; sys.exit(m.main(sys.argv[1:]))'
    )
    path.write_text(
      f'#!/bin/bash\nexec {sys.executable} -S -c {_quoted(code)} {name} "$@"\n'
    )
    path.chmod(0o755)

  def environment(self) -> dict[str, str]:
    """Returns the environment of a user's shell that uses this cloud."""
    return {
      'HOME': str(self.root / 'user'),
      'KD_FAKE_WORLD': str(self.root),
      'PATH': f'{self.root}/bin:/usr/bin:/bin',
      'TMPDIR': str(self.root),
    }

  def start(self, *arguments: str) -> subprocess.Popen:
    """Starts launch/... in a new session, as from a terminal."""
    return subprocess.Popen(
      [str(self.tree / arguments[0]), *arguments[1:]],
      cwd=self.root,
      env=self.environment(),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
    )

  def launch(self, *arguments: str) -> tuple[int, str, str]:
    """Runs launch/...; returns the exit code, stdout and stderr."""
    process = self.start(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err

  def tpu(self, verb: str, *arguments: str) -> tuple[int, str, str]:
    """Runs launch/tpu --execute with the settings and without waiting."""
    return self.launch(*self.tpu_command(verb, *arguments))

  def tpu_command(self, verb: str, *arguments: str) -> list[str]:
    command = ['launch/tpu', verb, f'--settings={self.settings}', '--execute']
    return [*command, *_QUICK, *arguments]

  def gke(self, verb: str, *arguments: str) -> tuple[int, str, str]:
    """Runs launch/gke --execute with the settings."""
    first = ['launch/gke', verb, f'--settings={self.settings}', '--execute']
    return self.launch(*first, *arguments)

  def verbs(self) -> list[str]:
    """Returns the verbs of gcloud calls for slices, in order."""
    return [c[c.index('tpus') + 2] for c in self.calls('gcloud', 'tpus')]

  def replan(self, **plan) -> None:
    """Changes the plan for all later calls."""
    self.plan.update(plan)
    (self.root / 'plan.json').write_text(json.dumps(self.plan))

  def starts(self) -> list[list[str]]:
    """Returns the worker and arguments of each start of the program."""
    found = self.calls('-m', 'kd')
    return [[c[1], *c[c.index('kd') + 1 :]] for c in found]

  def wait_for(self, what, seconds: float = 120) -> None:
    """Waits until what() is true."""
    end = time.monotonic() + seconds
    while not what():
      assert time.monotonic() < end, self.calls()
      time.sleep(0.02)

  def close(self) -> None:
    """Kills all programs that still run on the machines."""
    for path in self.root.glob('machines/*/*/kd/run/session'):
      with contextlib.suppress(ProcessLookupError, ValueError):
        os.killpg(int(path.read_text()), signal.SIGKILL)


@contextlib.contextmanager
def maker(folder: pathlib.Path):
  """Yields a function that creates Clouds in `folder`, and closes them."""
  made = []

  def make(**plan):
    root = folder / str(len(made))
    root.mkdir()
    made.append(Cloud(root, **plan))
    return made[-1]

  yield make
  for cloud in made:
    cloud.close()


def _quoted(text):
  return "'" + text.replace("'", "'\\''") + "'"
