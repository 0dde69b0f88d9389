"""Makes etils.epath, which Orbax uses, read and write buckets through objects.

epath uses file systems of fsspec. The common ones (gcsfs, s3fs) pin versions
that conflict with this project's other libraries, and would be a second client
with separate retries and credentials.
"""

import functools
import io

from etils.epath import backend as epath_backend
from etils.epath import gpath
import fsspec

from kd.core import layout
from kd.core import objects


class _Upload(io.BytesIO):
  """A file that is uploaded as one object when it is closed."""

  def __init__(self, url: str):
    super().__init__()
    self._url = url

  def drop(self) -> None:
    """Closes the file without an upload."""
    super().close()

  def close(self):
    if not self.closed:
      objects.write(self._url, self.getvalue())
    super().close()

  def __exit__(self, kind, *error):
    if kind is not None:
      self.drop()
    super().__exit__(kind, *error)

  def __del__(self):  # It was never closed, so it may be incomplete.
    self.drop()


class _TextUpload(io.TextIOWrapper):
  """A text file that is uploaded as one object when it is closed."""

  def __exit__(self, kind, *error):
    if kind is not None:
      self.buffer.drop()
    else:
      self.close()

  def __del__(self):
    self.buffer.drop()


class _Files(fsspec.AbstractFileSystem):
  """The objects of buckets as files.

  A folder is a prefix with objects below it, or an object whose name ends with
  a slash, which `mkdir` writes.
  """

  scheme: str

  def _url(self, path):
    return f'{self.scheme}://{self._strip_protocol(path)}'

  def _is_object(self, url):
    has_name = '/' in url.partition('://')[2]
    return has_name and objects.read(url).data is not None

  def info(self, path, **unused):
    del unused
    url = self._url(path)
    path = self._strip_protocol(path)
    if objects.names(url):
      return {'name': path, 'size': 0, 'type': 'directory'}
    data = objects.read(url).data if '/' in path else b''
    if data is None:
      raise FileNotFoundError(url)
    return {'name': path, 'size': len(data), 'type': 'file'}

  def exists(self, path, **unused):
    del unused
    url = self._url(path)
    return self._is_object(url) or bool(objects.names(url))

  def isdir(self, path):
    return bool(objects.names(self._url(path)))

  def isfile(self, path):
    return self._is_object(self._url(path))

  def ls(self, path, detail=True, **unused):
    del unused
    names = objects.names(self._url(path))
    path = self._strip_protocol(path)
    if not names:
      raise FileNotFoundError(path)
    kinds = {}
    for name in filter(None, names):
      first, slash, _ = name.partition('/')
      kinds[first] = 'directory' if slash else kinds.get(first, 'file')
    found = [
      {'name': f'{path}/{name}', 'size': 0, 'type': kind}
      for name, kind in sorted(kinds.items())
    ]
    return found if detail else [x['name'] for x in found]

  def mkdir(self, path, create_parents=True, **unused):
    del create_parents, unused
    objects.write(f'{self._url(path)}/', b'')

  def makedirs(self, path, exist_ok=False):
    if not exist_ok and self.exists(path):
      raise FileExistsError(self._url(path))
    self.mkdir(path)

  def _open(self, path, mode='rb', **unused):
    del unused
    url = self._url(path)
    if mode == 'wb':
      return _Upload(url)
    if mode != 'rb':
      raise NotImplementedError(f'{url}: mode {mode}')
    data = objects.read(url).data
    if data is None:
      raise FileNotFoundError(url)
    return io.BytesIO(data)

  def open(self, path, mode='rb', **settings):
    if mode != 'w':
      return super().open(path, mode, **settings)
    return _TextUpload(self._open(path, 'wb'), encoding='utf-8')

  def rm(self, path, recursive=False, maxdepth=None):
    del maxdepth
    url = self._url(path)
    if recursive:
      # The commit marker goes first, in case this process is killed.
      objects.remove([f'{url}/{layout.COMMIT}'])
      objects.remove_folder(url)
    elif self.isdir(path):
      raise IsADirectoryError(url)
    objects.remove([url])

  def rmdir(self, path):
    objects.remove([f'{self._url(path)}/'])


class _Gcs(_Files):
  scheme = 'gs'
  protocol = ('gs', 'gcs')


class _S3(_Files):
  scheme = 's3'
  protocol = ('s3',)


class _Backend(type(epath_backend.fsspec_backend)):
  """Operations of epath with these file systems.

  They are not registered with fsspec, so that other libraries in this process
  get the file systems that they expect.
  """

  def _get_filesystem(self, name):
    kinds = {'gcs': _Gcs, 's3': _S3}
    return kinds[name]() if name in kinds else fsspec.filesystem(name)


@functools.cache
def register() -> None:
  """Makes epath use these file systems for gs:// and s3://.

  If TensorFlow is installed, epath would use its client, which supports neither
  s3:// nor other servers.
  """
  backend = _Backend()
  its_own = gpath._GPath._backend.fget
  gpath._GCS_BACKENDS |= {backend}
  gpath._GPath._backend = property(
    lambda path: backend if path._uri_scheme in ('gs', 's3') else its_own(path)
  )
