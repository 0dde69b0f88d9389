"""Formats durations."""


def clock(seconds: float) -> str:
  """Formats seconds as hours, minutes and seconds, such as 1:02:03."""
  minutes, second = divmod(int(seconds + 0.5), 60)
  hours, minute = divmod(minutes, 60)
  return f'{hours}:{minute:02}:{second:02}'
