import pytest
from pydantic import ValidationError

from service.settings import Settings, explain


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


def test_settings_read_names_with_commas_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_ALLOWED_ORIGINS", "https://App.example, http://[::1]:3000,")
    monkeypatch.setenv("CHANNELTOK_ALLOWED_HOSTS", "*.example,tok")
    settings = Settings()
    assert settings.allowed_origins == ("https://app.example", "http://[::1]:3000")
    assert settings.host_names == ("*.example", "tok")


@pytest.mark.parametrize(
    ("host", "names"),
    [("127.0.0.1", ()), ("::1", ()), ("localhost", ()), ("0.0.0.0", ("*",)), ("::", ("*",))],
)
def test_settings_take_any_host_name_beyond_loopback(host: str, names: tuple[str, ...]) -> None:
    assert Settings(host=host).host_names == names
    assert Settings(host=host, allowed_hosts=()).host_names == ()


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
        {"allowed_origins": "app.example"},
        {"allowed_origins": "https://app.example/"},
        {"allowed_origins": "null"},
        {"allowed_hosts": "https://tok.example"},
        {"allowed_hosts": "tok.example:8080"},
        {"allowed_hosts": "a.*.example"},
    ],
)
def test_settings_refuse_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_settings_that_are_empty_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"CHANNELTOK_{name.upper()}", "")
    assert Settings() == default


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("REST_PORT", "70000", "less than or equal to 65535"),
        ("GRPC_PORT", "http", "a valid integer"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("ENGINE", "torch", "'auto', 'onnxruntime' or 'openvino'"),
        ("MAX_MEMORY", "plenty", "3GiB"),
        ("RATE_LIMIT", "-1", "greater than 0"),
        ("DRAIN_SECONDS", "soon", "a valid number"),
    ],
)
def test_explain_names_the_variable_and_what_is_allowed(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CHANNELTOK_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    line = explain(caught.value)
    assert line.startswith(f"CHANNELTOK_{name}: ")
    assert allowed in line
    assert line.endswith(f"not '{value}'")
    assert "\n" not in line


def test_explain_has_a_line_for_each_wrong_setting() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"rest_port": 70000, "workers": 0})
    assert [line.split(":")[0] for line in explain(caught.value).splitlines()] == [
        "CHANNELTOK_REST_PORT",
        "CHANNELTOK_WORKERS",
    ]


def test_explain_keeps_the_message_about_settings_that_do_not_fit() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"tls_key": "key.pem"})
    assert explain(caught.value).startswith("CHANNELTOK settings: tls_certificate and tls_key need")
