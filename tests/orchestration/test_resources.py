"""The fields of the resources follow from the settings."""

from enum import Enum
from typing import Literal, get_args, get_origin

from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.resources import WITHOUT_FIELD, KontextResource, SegmindResource
from kontext_pipeline.settings import Settings, environment_variable, plain_type


def test_every_setting_but_secrets_is_a_field_of_one_resource() -> None:
    segmind, kontext = set(SegmindResource.model_fields), set(KontextResource.model_fields) - {"segmind"}
    assert segmind | kontext == set(Settings.model_fields) - WITHOUT_FIELD
    assert not segmind & kontext
    for resource in (SegmindResource, KontextResource):
        for name, field in resource.model_fields.items():
            if name != "segmind":
                text = f"{Settings.model_fields[name].description} {environment_variable(name)}."
                assert (field.default, field.description) == (None, text)


def test_choices_are_those_of_the_settings() -> None:
    for resource, name in (
        (SegmindResource, "backend"),
        (SegmindResource, "api_version"),
        (KontextResource, "budget_period"),
    ):
        [choices, _none] = get_args(resource.model_fields[name].annotation)
        assert issubclass(choices, Enum)
        assert get_origin(plain_type(name)) is Literal
        assert [one.value for one in choices] == list(get_args(plain_type(name)))


def test_the_launchpad_names_the_fields() -> None:
    resources = defs().resources
    assert resources is not None
    fields = resources["segmind"].get_resource_definition().config_schema.config_type.fields
    assert fields["concurrency"].description == "Generations in flight at once, per process. KONTEXT_CONCURRENCY."


def test_a_field_overrides_the_environment_and_an_empty_one_does_not() -> None:
    choice = SegmindResource.model_fields["backend"].annotation
    [backend, _none] = get_args(choice)
    settings = KontextResource(segmind=SegmindResource(backend=backend("sandbox"), concurrency=3), seed=7).settings()
    assert (settings.backend, settings.concurrency, settings.seed) == ("sandbox", 3, 7)
    assert settings.batch_size == Settings.model_fields["batch_size"].default


def test_columns_are_mapped_in_run_config() -> None:
    resource = KontextResource(columns=["prompt=Prompt"], segmind=SegmindResource())
    assert resource.settings().column_mapping == {"prompt": "Prompt"}
