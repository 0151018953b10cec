"""The standard variables: what they ask for, and that a wrong one is named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_asyncio.environment import exports

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("variables", "exporters"),
    (
        ({}, ("otlp_proto_http",)),
        ({ENDPOINT: "http://localhost:4317"}, ("otlp_proto_grpc",)),
        ({ENDPOINT: "localhost:4317"}, ("otlp_proto_grpc",)),
        ({ENDPOINT: "http://localhost:4318"}, ("otlp_proto_http",)),
        ({ENDPOINT: "https://collector.example/base"}, ("otlp_proto_http",)),
        ({ENDPOINT: "http://localhost:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ("otlp_proto_grpc",)),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            ("otlp_proto_http",),
        ),
        ({ENDPOINT: "http://a:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:4317"}, ("otlp_proto_grpc",)),
        ({"OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp_proto_http")),
        ({"OTEL_TRACES_EXPORTER": ""}, ("otlp_proto_http",)),
        ({"OTEL_SDK_DISABLED": "true"}, ()),
        ({"OTEL_SDK_DISABLED": "False"}, ("otlp_proto_http",)),
    ),
)
def test_the_variables_choose_the_exporters(variables: dict[str, str], exporters: tuple[str, ...]) -> None:
    assert exports(variables).traces == exporters


def test_metrics_may_have_a_protocol_of_their_own() -> None:
    variables = {ENDPOINT: "http://localhost:4318", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}
    assert exports(variables).metrics == ("otlp_proto_grpc",)


def test_without_an_endpoint_for_them_no_metrics_are_sent() -> None:
    assert exports({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318"}).metrics == ()


WRONG = (
    ("OTEL_SDK_DISABLED", "yes"),
    (ENDPOINT, "localhost:4318"),
    (ENDPOINT, "ftp://localhost:4318"),
    (ENDPOINT, "http://"),
    (ENDPOINT, "http://localhost:99999"),
    (ENDPOINT, "http://localhost:port"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "4318"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "GRPC!"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "inf"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file.pem"),
    ("OTEL_EXPORTER_OTLP_INSECURE", "maybe"),
    ("OTEL_TRACES_EXPORTER", "otpl"),
    ("OTEL_TRACES_EXPORTER", "none,otlp"),
    ("OTEL_METRICS_EXPORTER", "statsd"),
    ("OTEL_TRACES_SAMPLER", "always"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
    ("OTEL_BSP_SCHEDULE_DELAY", "1.5"),
    ("OTEL_RESOURCE_ATTRIBUTES", "service.name:shop"),
)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        exports({name: value})
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "named"),
    (
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "600", "OTEL_BSP_MAX_QUEUE_SIZE": "500"}, "OTEL_BSP_MAX_QUEUE_SIZE"),
        ({ENDPOINT: "https://a", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, "OTEL_EXPORTER_OTLP_INSECURE"),
        ({ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_CERTIFICATE": __file__}, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ({"OTEL_EXPORTER_OTLP_CLIENT_KEY": __file__}, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
        ({ENDPOINT: "http://a:4317", "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "5"}, "OTEL_TRACES_SAMPLER_ARG"),
    ),
)
def test_variables_that_contradict_each_other_are_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        exports(variables)


def test_a_certificate_that_another_variable_overrides_is_told(tmp_path: Path) -> None:
    """Seen: the exporter over HTTP then trusts the bundle, and no span arrives."""
    certificate, bundle = tmp_path / "ca.pem", tmp_path / "bundle.pem"
    certificate.write_text("-- one --\n")
    bundle.write_text("-- another --\n")
    variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate), "CURL_CA_BUNDLE": str(bundle)}
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_CERTIFICATE=.*CURL_CA_BUNDLE"):
        exports(variables)
    exports(variables | {ENDPOINT: "https://a:4317"})  # gRPC heeds its own alone
    bundle.write_text("-- another --\n-- one --\n")
    exports(variables)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="OTEL_TRACES_SAMPLER.*OTEL_EXPORTER_OTLP_TIMEOUT"):
        exports({"OTEL_TRACES_SAMPLER": "?", "OTEL_EXPORTER_OTLP_TIMEOUT": "?"})


def test_what_may_be_a_key_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        exports({"OTEL_EXPORTER_OTLP_HEADERS": "s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    (
        {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x,x-tenant=1"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a=b=="},
        {ENDPOINT: "https://a", "OTEL_EXPORTER_OTLP_CERTIFICATE": str(Path(__file__))},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,deployment.environment.name=test"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "2.5", "OTEL_BSP_EXPORT_TIMEOUT": "30000"},
        {ENDPOINT: "http://[::1]:4318"},
    ),
)
def test_what_is_right_is_taken(variables: dict[str, str]) -> None:
    exports(variables)
