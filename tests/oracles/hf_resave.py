"""Oracle: saves a folder's tokenizer as transformers saves it.

Reads {"directory", "target", "special", "plain"} as JSON from stdin: two lists
of tokens that are added first, the second as tokens that are no special ones.
"""

import json
import sys

import transformers


def main():
  request = json.load(sys.stdin)
  tokenizer = transformers.AutoTokenizer.from_pretrained(request['directory'])
  if request['special']:
    tokenizer.add_tokens(request['special'], special_tokens=True)
  if request['plain']:
    tokenizer.add_tokens(request['plain'])
  tokenizer.save_pretrained(request['target'])


if __name__ == '__main__':
  main()
