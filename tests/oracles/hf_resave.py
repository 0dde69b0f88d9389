"""Loads tokenizers and saves them with transformers, as an oracle.

Reads lines of JSON from stdin, {"directory", "target", "special", "plain"}. The
last two are lists of special and plain tokens to add first.
"""

import json
import sys

import transformers


def _save(request):
  tokenizer = transformers.AutoTokenizer.from_pretrained(request['directory'])
  if request['special']:
    tokenizer.add_tokens(request['special'], special_tokens=True)
  if request['plain']:
    tokenizer.add_tokens(request['plain'])
  tokenizer.save_pretrained(request['target'])


def main():
  for line in sys.stdin:
    _save(json.loads(line))


if __name__ == '__main__':
  main()
