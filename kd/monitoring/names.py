"""Names of the metrics that a server exposes at /metrics.

Counters end with _total, and histograms have _bucket, _sum and _count, as in
the Prometheus client.
"""

REQUESTS = 'kd_requests_total'  # By `model`, `endpoint` and `code`.
FIRST_TOKEN_S = 'kd_first_token_seconds'  # Histogram.
REQUEST_S = 'kd_request_seconds'  # Histogram.
TOKENS = 'kd_tokens_total'  # By `kind`: prompt, answer.
WAITING = 'kd_waiting_prompts'  # Gauge.
RUNNING = 'kd_running_answers'  # Gauge.
FAILED = 'kd_failed'  # Gauge by `model`, 1 while the model has failed.
READY = 'kd_ready'  # Gauge.
MEMORY_BYTES = 'kd_memory_bytes'  # Gauge, by `kind`: host, device.
MEMORY_LIMIT_BYTES = 'kd_memory_limit_bytes'  # Gauge, likewise.
# Tokens of answers that the teacher scores, and those that are its first
# choice.
COMPARED_TOKENS = 'kd_compared_tokens_total'
AGREEING_TOKENS = 'kd_agreeing_tokens_total'
VERSION = 'kd_version_info'  # Gauge, 1 by `version` and `stage`.
