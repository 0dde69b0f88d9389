"""Tests the server with common clients: openai and lm-eval."""

import pytest

import kd
from tests import command
from tests import server as server_lib
from tests.oracles import client

_PROMPT = 'Q: 30-4=?\nA:\n'
# lm-eval moves trailing white space of a context to the continuation.
_CONTEXTS = [f'{_PROMPT}3', 'Q: 1+2=?\nA:\n1+2=3']


def test_openai_and_lm_eval_receive_the_models_answers(tmp_path):
  with server_lib.running() as server, command.compiled_once():
    model = kd.load(server_lib.MODEL)
    answers = model.generate([_PROMPT, *_CONTEXTS], max_new_tokens=20)
    greedy, *others = [samples[0].text for samples in answers]
    pairs = [
      pair
      for context, other in zip(_CONTEXTS, others, strict=True)
      for pair in ((context, other[:4]), (context, '7#'))
    ]
    server.wait_until_ready()
    cases = {
      'url': f'http://127.0.0.1:{server.port}/v1',
      'key': server_lib.KEY,
      'model': 'tiny',
      'tokenizer': server_lib.MODEL,
      'prompt': _PROMPT,
      'pairs': pairs,
    }
    told, _ = client.run('api', 'ask', cases, {}, tmp_path)
  ((sample,),) = model.generate(
    [_PROMPT], temperature=0.8, seed=2, max_new_tokens=20
  )
  assert told['models'] == ['tiny']
  assert told['whole'] == ''.join(told['parts']) == sample.text
  count = len(sample.ids) + (sample.stop_id is not None)
  assert told['usage'] == told['whole_usage'] and told['usage'][1] == count
  assert told['tokens'] == [2] * len(sample.ids) and len(told['parts']) > 2
  assert told['error'][0] == 'temperature' and '0 or more' in told['error'][1]
  assert len(told['many']) == 2
  whole = model.score([context + text for context, text in pairs])
  contexts = model.score([context for context, _ in pairs])
  for (logprob, _), one, other in zip(told['scores'], whole, contexts):
    assert logprob == pytest.approx(other.nll - one.nll, abs=2e-3)
  assert [greedily for _, greedily in told['scores']] == [True, False] * 2
  assert told['generated'] == [greedy.split('\n')[0]]
