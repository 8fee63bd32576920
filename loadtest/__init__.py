"""Load tests, benchmarks and chaos tests of the running service."""

import os

# The frameworks in loadtest/peers send usage reports by default (docs/decisions/0035), and a Ray
# cluster even reports that they are off. Child processes inherit these settings.
os.environ |= {
    "BENTOML_DO_NOT_TRACK": "True",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
}
# The services under load are on this machine: no client of theirs asks a proxy for them.
_others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
os.environ["no_proxy"] = ",".join(filter(None, [_others, "localhost,127.0.0.1,::1"]))
