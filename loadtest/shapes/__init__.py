"""How many users at which time: one `LoadTestShape` a file, for locust's -f beside loadtest/locustfile.py. Options set the numbers."""
