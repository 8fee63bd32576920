"""Tokenize on Ray clusters: SOURCE DESTINATION ADDRESS...; prints what each of them answered.

A program of its own: Ray installs handlers of signals, which would stay in the tests' process.
"""

import sys

from channeltok.datasets import on_ray, tokenize
from channeltok.datasets.on_ray import Cluster

from tests.support.byte_engine import ByteEngine

on_ray.CONNECT_SECONDS = 2.0
source, destination, *addresses = sys.argv[1:]
for address in addresses:
    try:
        tokenize(source, destination, [ByteEngine()], cluster=Cluster(address, ByteEngine))
    except ConnectionError as error:
        print(error)
