"""Images that examples name by URL: splits, tasks of modules, manifests."""

import contextlib
import hashlib
import http.server
import json
import threading

import pytest

from kd.core import errors
from kd.data_files import source as source_lib
from kd.images import form as form_lib
from kd.input_pipeline import tokenizers
from kd.input_pipeline import user_cases
from kd.models.vision import vision_cases

_SOFT = tokenizers.load('bytes').image_ids[1]
_FORM = form_lib.Form(vision_cases.TOWER.image_size, 4, _SOFT, per_row=1)
_MODULE = """
DATA_FILES = ('chats.json',)


def read(split):
  with open(os.path.join(HERE, 'chats.json'), encoding='utf-8') as f:
    for messages in json.load(f):
      yield {'messages': messages}


text_tasks.add(NAME, read, splits=['train'])
"""


@contextlib.contextmanager
def _server(files, asked):
  """Serves `files` by path, records requested paths; yields the address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802, as http.server calls it.
      asked.append(self.path)
      data = files.get(self.path)
      self.send_response(404 if data is None else 200)
      self.end_headers()
      self.wfile.write(data or b'')

    def log_message(self, *arguments):
      del arguments

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()


def _messages(image):
  asked = [{'type': 'image', **image}, {'type': 'text', 'text': 'What?'}]
  return [
    {'role': 'user', 'content': asked},
    {'role': 'assistant', 'content': 'yes'},
  ]


def test_a_failed_url_moves_no_other_example(tmp_path):
  paths, asked = [f'/{i}.png' for i in range(16)], []
  files = {path: vision_cases.png(i) for i, path in enumerate(paths)}
  with _server(files, asked) as address:
    rows = [
      {'id': path, 'messages': _messages({'url': address + path})}
      for path in paths
    ]
    file = tmp_path / 'chats.jsonl'
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))

    def read(split):
      source = source_lib.Source(str(file), held_out=5, urls=True)
      return {x['id'] for x in source.read(split, bad=lambda error: None)}

    train, held_out = read('train'), read('validation')
    assert len(held_out) == 5 and train | held_out == {*paths}
    # Each image is only downloaded for its own split.
    assert sorted(asked) == sorted(paths)
    for one in (min(train), min(held_out)):
      data = files.pop(one)
      file.touch()  # Places are cached as long as the file is unchanged.
      assert read('train') == train - {one}
      assert read('validation') == held_out - {one}
      files[one] = data


def test_examples_of_modules_accept_urls_and_files(tmp_path, monkeypatch):
  user = user_cases.User(tmp_path, monkeypatch)
  user.module('urls', _MODULE, 'from kd.input_pipeline import text_tasks')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.png').write_bytes(vision_cases.png(0))
  with _server({'/b.png': vision_cases.png(1)}, []) as address:
    url = f'{address}/b.png'
    chats = [_messages({'path': 'a.png'}), _messages({'url': url})]
    (user.folder / 'chats.json').write_text(json.dumps(chats))
    with pytest.raises(errors.ConfigError, match=r'data\.images\.urls=True'):
      user.prepare('urls', form=_FORM)
    first = user.prepare('urls', form=_FORM, urls=True)
    assert first.images == [1, 1]
    # The contents of URLs are only recorded, those of files also compared,
    # based on the images that shards have read, not on declared files.
    recorded = first.manifest['sources']['tasks']['urls']['images']
    of_url = vision_cases.png(1)
    digest = hashlib.sha256(of_url).hexdigest()
    assert recorded['urls'] == [[url, len(of_url), digest]]
    assert user.prepare('urls', form=_FORM, urls=True).reused
    (tmp_path / 'a.png').write_bytes(vision_cases.png(2))
    second = user.prepare('urls', form=_FORM, urls=True)
  assert not second.reused
  assert second.counts['rows_sha256'] != first.counts['rows_sha256']
