import pytest

from service import workers
from service.settings import Settings


def test_workers_share_the_limits_and_keep_the_other_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(
        workers=4,
        engine_instances=2,
        image_workers=2,
        max_in_flight=100,
        max_queue_size=100,
        max_connections=1000,
        allowed_origins="https://app.example,http://localhost:3000",
    )
    shared: dict[str, str | int] = {"triton_url": "127.0.0.1:9", "rest_port": 18080}
    for name, value in workers._environment(settings, shared).items():
        monkeypatch.setenv(name, value)
    worker = Settings()
    assert (worker.workers, worker.triton_url, worker.rest_port) == (1, "127.0.0.1:9", 18080)
    # A quarter each of the limits of a service with its own Triton.
    assert (worker.max_in_flight, worker.generation_permits) == (25, 2)
    assert (worker.image_workers, worker.max_queue_size, worker.max_connections) == (1, 25, 250)
    own = {"workers", "triton_url", "rest_port", "max_in_flight", "max_generations"}
    own |= {"image_workers", "max_queue_size", "max_connections"}
    assert worker.model_dump(exclude=own) == settings.model_dump(exclude=own)


def test_workers_take_as_many_images_as_triton_where_no_limit_is_set() -> None:
    assert "CHANNELTOK_MAX_IN_FLIGHT" not in workers._environment(Settings(workers=2), {})
