import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_every_setting_has_a_help_text_of_whole_sentences() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert len(field.description) > 40, name
        assert field.description.endswith("."), name


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_GRPC_PORT", "1234")
    assert Settings().grpc_port == 1234


def test_settings_bind_to_loopback_by_default() -> None:
    settings = Settings()
    assert (settings.host, settings.rest_port, settings.grpc_port) == ("127.0.0.1", 8080, 50051)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rest_port": 70000},
        {"engine_instances": 0},
        {"log_level": "loud"},
        {"max_in_flight": 0},
        {"rate_limit": 0},
        {"tls_certificate": "certificate.pem"},
        {"tls_client_ca": "ca.pem"},
        {"engine": "onnxruntime", "decode_precision": "bf16"},
    ],
)
def test_settings_refuse_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
