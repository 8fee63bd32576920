"""The service where people run it: on a part of a machine."""

from channeltok import Client

from tests.support.control_groups import cpu_quota
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import running


def test_service_under_a_cpu_quota_is_as_large_as_the_quota() -> None:
    with cpu_quota(1) as under, running(under=under) as service, Client(service.grpc) as client:
        assert client.encode(jpeg()).k
        assert sample(service, "channeltok_images_in_flight_limit") == 8
        assert sample(service, "channeltok_image_workers", lane="light") == 1
        engines = service.children("triton_python")
        models = {engine.cmdline()[1] for engine in engines}
        assert len(engines) == len(models) > 0, "one process for each model"
