"""Oracle: what transformers makes of texts and messages with a tokenizer.

Reads lines of JSON from stdin, {"directory", "texts", "chats"}; writes a line
for each to stdout, {"ids", "decoded", "chats": [{"text", "ids", "mask",
"error"}]}; `mask` is that of the assistant's tokens. Texts are encoded
with the special tokens that the tokenizer adds by itself, and decoded without
the first ids, as many as the optional "skip" says (1). The chats also get the
opening of the model's turn where they end with the user's, and the optional
"options" go to the template.
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
  except Exception as e:  # Jinja's own errors and transformers' alike.
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
