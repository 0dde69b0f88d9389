"""Recognizes addresses that only this machine can reach."""

import ipaddress


def is_loopback(host: str) -> bool:
  """Returns whether only this machine can reach an address.

  Args:
    host: host name or address; an IPv6 address may be in brackets.
  """
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'
