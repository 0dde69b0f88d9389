"""Oracle: what transformers makes of texts and messages with a tokenizer.

Reads {"directory", "texts", "chats"} as JSON from stdin; writes {"ids",
"decoded", "chats": [{"text", "ids", "error"}]} to stdout. Texts are encoded
with the special tokens that the tokenizer adds by itself; the chats also get
the opening of the model's turn where they end with the user's.
"""

import json
import sys

import transformers


def _chat(tokenizer, messages):
  generate = messages[-1]['role'] == 'user'
  try:
    text = tokenizer.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=generate
    )
    ids = tokenizer.apply_chat_template(
      messages, tokenize=True, add_generation_prompt=generate, return_dict=False
    )
  except Exception as e:  # Jinja's own errors and transformers' alike.
    return {'text': None, 'ids': None, 'error': str(e)}
  return {'text': text, 'ids': ids, 'error': None}


def main():
  request = json.load(sys.stdin)
  tokenizer = transformers.AutoTokenizer.from_pretrained(request['directory'])
  ids = [tokenizer(text)['input_ids'] for text in request['texts']]
  json.dump(
    {
      'ids': ids,
      'decoded': [
        tokenizer.decode(
          row[1:], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        for row in ids
      ],
      'eos_id': tokenizer.eos_token_id,
      'class': type(tokenizer).__name__,
      'chats': [_chat(tokenizer, messages) for messages in request['chats']],
    },
    sys.stdout,
  )


if __name__ == '__main__':
  main()
