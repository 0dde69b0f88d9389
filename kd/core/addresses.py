"""Tells the addresses of this machine from those of others."""

import ipaddress


def is_loopback(host: str) -> bool:
  """Returns whether only this machine reaches an address.

  Args:
    host: a name or an address; one of IPv6 may have brackets.
  """
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'
