"""Triton's python backend with the interface of a generator: decoupled, one response for each new token. repository.py
writes it into a model repository.

In the network's place stands a numpy generator seeded by (seed, class, tokens so far), because a trained network is not part of every
checkout: same request, same tokens; another seed, class or prefix, other tokens; greedy (temperature 0) takes no notice of the seed.
Everything around it is real: Triton, its streams, how they are stopped. Each sequence has a thread, and one lock for a token.

Parameters of config.pbtxt besides a generator's: pause, seconds before each token; active, a folder with a file PID-* for each sequence
that is being made; fault, a file whose text, once it is there, spoils the next token: "hang", "die" or "rubbish".
"""

import json
import os
import signal
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        self.codes = int(parameters["codes"])
        self.pause = float(parameters["pause"])
        self.active = Path(parameters["active"])
        self.fault = Path(parameters["fault"])
        self.step = threading.Lock()
        self.stopped = set()  # ids of requests

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            given = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("class", "prefix", "length", "seed", "temperature", "top_k")
            }
            if given["length"][0] == 0:
                self.stopped.add(request.request_id())
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            else:
                threading.Thread(
                    target=self._run, args=(request.request_id(), sender, given), daemon=True
                ).start()

    def _run(self, identity, sender, given):
        marker = self.active / f"{os.getpid()}-{uuid.uuid4().hex}"
        marker.touch()
        try:
            self._generate(identity, sender, given)
        finally:
            marker.unlink()

    def _generate(self, identity, sender, given):
        number, length, seed, temperature, top_k = (
            given[name][0] for name in ("class", "length", "seed", "temperature", "top_k")
        )
        prefix = given["prefix"]
        sequence = [int(one) for one in prefix if one >= 0]
        for index in range(len(sequence), length):
            time.sleep(self.pause)
            if identity in self.stopped or sender.is_cancelled():
                break
            fault = ""
            with self.step:
                if self.fault.exists():
                    fault = self.fault.read_text()
                    self.fault.unlink()
                if fault == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "hang":
                    time.sleep(3600)
            chance = np.random.default_rng(
                [int(seed) if temperature > 0 else 0, int(number) + 1, *sequence]
            )
            token = (
                int(chance.integers(int(top_k) or self.codes))
                if fault != "rubbish"
                else self.codes + 7
            )
            sequence.append(token)
            outputs = [
                pb_utils.Tensor("token", np.array([token], np.int32)),
                pb_utils.Tensor("index", np.array([index], np.int32)),
            ]
            sender.send(pb_utils.InferenceResponse(outputs))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
