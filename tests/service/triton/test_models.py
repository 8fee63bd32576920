"""What Triton is asked about the models it has."""

from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.errors import EngineUnavailable
from tests.support.fake_triton import asked

UNLOADED = "Request for unknown model: 'gone' has no available versions"  # Triton 2.51


class Engine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Unloads one of its two models between two questions. Stands in for Triton, where nobody can hit that moment."""

    def __init__(self, says: str) -> None:
        self.says = says

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelStatisticsResponse(
            model_stats=[{"name": "gone"}, {"name": "stays"}]
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name == "gone":
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.says)
        tensor = {"name": "x", "data_type": "TYPE_INT32", "dims": [2]}
        return service_pb2.ModelConfigResponse(
            config={"name": request.name, "input": [tensor], "output": [tensor]}
        )


async def test_one_that_is_unloaded_meanwhile_is_left_out() -> None:
    async with asked(Engine(UNLOADED)) as triton:
        assert [model.name for model in await triton.models()] == ["stays"]


async def test_other_faults_are_faults() -> None:
    async with asked(Engine("out of order")) as triton:
        with pytest.raises(EngineUnavailable):
            await triton.models()
