"""Triton python backend with the interface of a generator: decoupled, one response per token.

repository.py writes it into a model repository. Triton, its streams and how they stop are real.
A numpy random generator replaces the network, which not every checkout has. Its seed is
(seed, class, tokens so far): the same request gives the same tokens; another seed, class or prefix
gives others. Greedy sampling (temperature 0) ignores the seed. Each sequence has a thread, and one
lock for a token.

Parameters of config.pbtxt besides those of a generator:
pause: seconds before each token. active: a folder with a file PID-* for each running sequence.
fault: a file whose text, once written, spoils the next token: "hang", "die" or "rubbish".
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
                for name in (
                    "class",
                    "prefix",
                    "length",
                    "seed",
                    "temperature",
                    "final_temperature",
                    "top_k",
                    "top_p",
                    "guidance",
                )
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
