"""How much it carries."""

import os

# What the service is measured beside reports its use unless told not to (docs/decisions/0035), and
# a Ray cluster reports even that it was told so. Child processes inherit this.
os.environ |= {
    "BENTOML_DO_NOT_TRACK": "True",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
}
