"""Oracle: the ids that llama.cpp gives for texts.

Reads {"model", "texts"} as JSON from stdin: a GGUF file and texts. Writes a
list of ids for each text to the file that the argument names, since llama.cpp
logs to stdout. Special tokens in the texts are read as such.
"""

import json
import sys
import urllib.request

import xllamacpp


def _tokenize(address, text):
  body = {'content': text, 'add_special': True, 'parse_special': True}
  request = urllib.request.Request(
    f'{address}/tokenize',
    json.dumps(body).encode(),
    {'Content-Type': 'application/json'},
  )
  with urllib.request.urlopen(request) as answer:
    return json.load(answer)['tokens']


def main(output):
  request = json.load(sys.stdin)
  params = xllamacpp.CommonParams()
  params.model.path = request['model']
  params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
  server = xllamacpp.Server(params)  # Listens on this machine alone.
  ids = [_tokenize(server.listening_address, t) for t in request['texts']]
  with open(output, 'w', encoding='utf-8') as f:
    json.dump(ids, f)


if __name__ == '__main__':
  main(*sys.argv[1:])
