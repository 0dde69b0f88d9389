"""Checks, before a run starts, that the mounted bucket is fit for it.

Usage: bucket.py FOLDER BUCKET OWNER TAKEOVER KD_ARGUMENT...

FOLDER is where BUCKET is mounted. OWNER names the slice or JobSet that starts
the run; only its first worker gives one, the others give ''. TAKEOVER is yes or
no. Exit code: 0; 2 where the run must not start; 1 where the mounted folder
fails. The last two print a message.
"""

import datetime
import http.client
import json
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request

# The variables are those that Google's client libraries read.
_METADATA = os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')
_STORAGE = os.environ.get(
  'STORAGE_EMULATOR_HOST', 'https://storage.googleapis.com'
)
_SECONDS = 10
_OWNER_FILE = 'launched_by'


class UnfitError(Exception):
  """The run must not start."""


def _get(url, headers):
  request = urllib.request.Request(url, headers=headers)
  with urllib.request.urlopen(request, timeout=_SECONDS) as response:
    return json.load(response)


def _object_size(bucket, name):
  """Returns the size of an object in the bucket, or None if there is none."""
  token = _get(
    f'http://{_METADATA}/computeMetadata/v1/instance/service-accounts/default/'
    'token',
    {'Metadata-Flavor': 'Google'},
  )['access_token']
  quoted = urllib.parse.quote(name, safe='')
  try:
    found = _get(
      f'{_STORAGE}/storage/v1/b/{bucket}/o/{quoted}?fields=size',
      {'Authorization': f'Bearer {token}'},
    )
  except urllib.error.HTTPError as e:
    if e.code == 404:
      return None
    raise
  return int(found['size'])


def check_durable(folder, bucket):
  """Raises if a file that was synced but not closed is not in the bucket.

  The mount itself always shows such a file, so Cloud Storage is asked. Where
  that fails, a warning is printed: the run may still be all right.
  """
  name = f'.kd-probe-{socket.gethostname()}-{os.getpid()}'
  path = os.path.join(folder, name)
  content = b'kd\n'
  with open(path, 'wb') as f:
    f.write(content)
    f.flush()
    os.fsync(f.fileno())
    try:
      size = _object_size(bucket, name)
    except (
      *(OSError, http.client.HTTPException),
      *(ValueError, TypeError, KeyError),  # Another answer than expected.
    ) as e:
      print(
        f'kd: warning: gs://{bucket} could not be asked whether what is synced '
        f'at {folder} is stored: {e}',
        file=sys.stderr,
      )
      size = len(content)
  os.unlink(path)
  if size != len(content):
    raise UnfitError(
      f'{folder}: a file that was synced but not closed is not in '
      f'gs://{bucket}: metrics would be lost with the machine. The bucket is '
      'mounted with streaming writes. On a TPU VM: fusermount -u /mnt/kd, then '
      'launch/tpu setup; on GKE: the mount option '
      'write:enable-streaming-writes:false'
    )


def claim(workdir, owner, takeover):
  """Writes the owner into the workdir, or raises if another one is there.

  Locks of a mounted bucket are not seen by other machines.
  """
  path = os.path.join(workdir, _OWNER_FILE)
  os.makedirs(workdir, exist_ok=True)
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      other, _, since = f.read().strip().partition(' ')
    if other == owner:
      return
    if other and not takeover:
      raise UnfitError(
        f'{workdir} belongs to {other}, which started a run there at {since}. '
        'If that run has ended, give launch/ --takeover=yes; else take another '
        '--workdir'
      )
  now = datetime.datetime.now(datetime.UTC)
  with open(path, 'w', encoding='utf-8') as f:
    f.write(f'{owner} {now:%Y-%m-%dT%H:%M:%SZ}\n')


def _workdir(arguments):
  flags = [a for a in arguments if a.startswith('--workdir=')]
  return flags[-1].partition('=')[2] if flags else ''


def main(argv):
  """Returns the exit code."""
  folder, bucket, owner, takeover, *arguments = argv
  workdir = _workdir(arguments)
  try:
    check_durable(folder, bucket)
    if owner and workdir.startswith(folder + '/'):
      claim(workdir, owner, takeover == 'yes')
  except UnfitError as e:
    print(f'kd: error: {e}', file=sys.stderr)
    return 2
  except OSError as e:
    print(f'kd: error: {folder}: the bucket fails: {e}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
