"""Tests of the load generators, benchmarks and chaos tests themselves."""
