"""Oracle: saves folders' tokenizers as transformers saves them.

Reads lines of JSON from stdin, {"directory", "target", "special", "plain"}: two
lists of tokens that are added first, the second as tokens that are no special
ones.
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
