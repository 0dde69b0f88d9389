"""Chats in users' formats, for tests."""

from kd.data_files import chats

# Calls in the formats of OpenAI's API and of kd.
_CALLS = [
  {
    'function': {'name': 'get', 'arguments': {'city': 'K\u00f6ln', 'n': [1, 2]}}
  },
  {'name': 'now', 'arguments': '{"utc":true}'},
]
WITH_TOOLS = [
  {'role': 'user', 'content': 'Weather?'},
  {'role': 'assistant', 'content': 'Wait. ', 'tool_calls': _CALLS[:1]},
  {'role': 'tool', 'content': ' 3 C\n'},
  {'role': 'assistant', 'content': '', 'tool_calls': _CALLS},
  {'role': 'tool', 'content': 'rain'},
  {'role': 'tool', 'content': '7:00'},
  {'role': 'assistant', 'content': 'Cold. \U0001f600'},
  {'role': 'user', 'content': 'Thanks'},
  {'role': 'assistant', 'content': 'Bye\nbye'},
]


def checked(chat):
  """Returns a chat, checked if it has tool calls or lists of parts."""
  has_tools = any('tool_calls' in message for message in chat)
  has_parts = any(isinstance(m.get('content'), list) for m in chat)
  return chats.check(chat, 'chat') if has_tools or has_parts else chat
