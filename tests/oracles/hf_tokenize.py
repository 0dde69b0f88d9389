"""Encodes texts and messages with transformers' tokenizers, as an oracle.

Reads lines of JSON from stdin, {"directory", "texts", "chats"}. Writes a line
for each to stdout, {"ids", "decoded", "chats": [{"text", "ids", "mask",
"error"}]}, where `mask` marks the assistant's tokens. Texts are encoded with
the tokenizer's default special tokens and decoded without the first "skip" ids
(optional, default 1). A chat that ends with the user's turn is followed by the
start of the model's. "options" (optional) are passed to the template.
"""

import json
import sys

import transformers


def _chat(tokenizer, messages, options):
  generate = messages[-1]['role'] == 'user'
  options = options | {'add_generation_prompt': generate}
  try:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    made = tokenizer.apply_chat_template(
      messages,
      tokenize=True,
      return_dict=True,
      return_assistant_tokens_mask=True,
      **options,
    )
  except Exception as e:  # Errors of Jinja and of transformers.
    return {'text': None, 'ids': None, 'mask': None, 'error': str(e)}
  ids, mask = made['input_ids'], made['assistant_masks']
  return {'text': text, 'ids': ids, 'mask': mask, 'error': None}


def _answer(request):
  skip, options = request.get('skip', 1), request.get('options', {})
  tokenizer = transformers.AutoTokenizer.from_pretrained(request['directory'])
  ids = [tokenizer(text)['input_ids'] for text in request['texts']]
  plain = {'skip_special_tokens': False, 'clean_up_tokenization_spaces': False}
  return {
    'ids': ids,
    'decoded': [tokenizer.decode(row[skip:], **plain) for row in ids],
    'eos_id': tokenizer.eos_token_id,
    'class': type(tokenizer).__name__,
    'chats': [_chat(tokenizer, chat, options) for chat in request['chats']],
  }


def main():
  for line in sys.stdin:
    print(json.dumps(_answer(json.loads(line))))


if __name__ == '__main__':
  main()
