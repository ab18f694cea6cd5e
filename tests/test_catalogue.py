"""The catalogue: the data holds together, names translate, and nothing unknown is stopped."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from slmclient import catalogue
from slmclient.catalogue import (
    Model,
    Offer,
    Provider,
    Status,
    directions,
    elsewhere,
    find,
    legacy_id,
    models,
    offer,
    provider,
    provider_id,
    providers,
    providers_of,
    retirement,
)
from slmclient.drivers import registry
from slmclient.phi.reasoning import TAGS
from slmclient.settings import VARIABLES

HOSTED = {"azure", "github", "nvidia"}
LOCAL = {"local", "llamacpp", "mlx", "ollama", "onnx", "openvino", "transformers"}
PHI_3 = [model.name for model in models() if model.family in ("phi-3", "phi-3.5")]
DATA = Path(catalogue.__file__).with_name("models.json")
FACTS = (  # of a model, each with a source
    *("parameters", "context", "modalities", "languages", "image_languages", "audio_languages"),
    *("tools", "reasoning", "template", "licence"),
)


def offers() -> list[tuple[Model, Offer]]:
    return [(model, each) for model in models() for each in model.offers]


def keys(model: Model) -> set[str]:
    ids = [key for each in model.offers for key in (each.id, each.legacy_id) if key]
    return {key.casefold() for key in (model.name, *model.aliases, *ids)}


# The data


def test_the_models_are_the_family_and_the_embedded_default() -> None:
    sizes = ["mini-4k", "mini-128k", "small-8k", "small-128k", "medium-4k", "medium-128k", "vision"]
    phi_4 = ["-mini", "-multimodal", "-reasoning", "-reasoning-plus", "-mini-reasoning", "-mini-flash-reasoning"]
    assert Counter(model.name for model in models()) == Counter(
        ["smollm2-135m", "phi-4", "phi-4-reasoning-vision"]
        + [f"phi-3-{size}" for size in sizes]
        + [f"phi-3.5-{size}" for size in ("mini", "moe", "vision")]
        + [f"phi-4{kind}" for kind in phi_4]
    )


def test_a_name_means_one_model() -> None:
    owners = Counter(key for model in models() for key in keys(model))
    assert [key for key, count in owners.items() if count > 1] == []


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_a_model_is_well_formed(model: Model) -> None:
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", model.name)
    assert model.aliases
    assert len({alias.casefold() for alias in (model.name, *model.aliases)}) == 1 + len(model.aliases), "said twice"
    assert re.fullmatch(r"\d+(\.\d+)?[BM](, \d+(\.\d+)?B active)?", model.parameters)
    assert model.context is None or (model.context >= 4096 and model.context % 1024 == 0)
    assert model.modalities[0] == "text"
    assert set(model.modalities) <= {"text", "image", "audio"}
    assert model.tools in (True, False, None)
    assert model.template in ("phi-3", "phi-4", "phi-4-mini", None)
    assert model.licence in ("MIT", "Apache-2.0")
    assert model.family
    assert model.title
    assert model.offers
    providers = [each.provider for each in model.offers]
    assert len(set(providers)) == len(providers), "two offers of one provider"
    assert ("reasoning" in model.name) == (model.reasoning is not None)
    assert model.reasoning is None or (model.reasoning.open, model.reasoning.close) == TAGS


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_every_fact_has_one_source_that_names_its_year(model: Model) -> None:
    sourced = Counter(fact for source in model.sources for fact in source.facts)
    assert set(sourced) <= set(FACTS)
    assert set(sourced.values()) == {1}
    assert {fact for fact in FACTS if getattr(model, fact) is not None} <= set(sourced)
    assert all(re.search(r"\b20\d\d\b", source.text) for source in model.sources)


@pytest.mark.parametrize(
    ("model", "one"), [pytest.param(model, each, id=f"{model.name} at {each.provider}") for model, each in offers()]
)
def test_an_offer_is_well_formed(model: Model, one: Offer) -> None:
    assert one.provider in HOSTED | LOCAL
    assert one.id
    assert one.status in get_args(Status)
    assert re.search(r"\b20\d\d\b", one.source), "a source names its date"
    assert (one.on is not None) == (one.status == "retired")
    assert one.on is None or date(2024, 4, 23) < one.on < date(2027, 1, 1)  # Phi-3 came out on the first
    assert one.replacement is None or one.status != "active", "what is there needs no replacement"
    assert one.max_input is None or model.context is None or 0 < one.max_input <= model.context
    assert one.max_output is None or model.context is None or 0 < one.max_output <= model.context
    assert one.images is None or "image" in model.modalities
    assert (one.legacy_id is not None) == (one.provider == "github")


def test_what_a_model_needs_to_think_is_said_where_it_can_be() -> None:
    for model in models():
        thinks = model.reasoning
        if thinks is None:
            assert not any(each.needs_system for each in model.offers), model.name
            continue
        assert (thinks.think is None) == (thinks.answer is None), model.name
        assert thinks.system is None or thinks.system == thinks.system.strip() != "", model.name
        for each in model.offers:
            host = provider(each.provider)
            assert not each.needs_system or (thinks.system and host and not host.own_prompts), each.provider


def test_a_replacement_can_be_had_and_does_the_same_job() -> None:
    named = [(model, each.replacement) for model, each in offers() if each.replacement]
    assert len(named) > 20
    for model, replacement in named:
        successor = next(each for each in models() if each.name == replacement)  # a portable name, not an alias
        assert successor is not model
        assert any(each.status == "active" for each in successor.offers), f"{replacement}, for {model.name}"
        assert set(model.modalities) <= set(successor.modalities), f"{replacement}, for {model.name}"


def test_every_retired_offer_leads_somewhere() -> None:
    for model, each in offers():
        assert each.status != "retired" or each.replacement or "azure" in providers_of(model.name), model.name


def test_the_data_is_typed_and_frozen() -> None:
    model = find("phi-4-reasoning")
    assert model is not None
    assert isinstance(model.offers[0], Offer)
    with pytest.raises(AttributeError):
        model.context = 1  # type: ignore[misc]
    assert hash(model) == hash(find("phi4-reasoning"))
    entries = json.loads(DATA.read_bytes())
    assert {key for entry in entries for key in entry} == set(Model.__dataclass_fields__)
    assert {key for entry in entries for row in entry["offers"] for key in row} == set(Offer.__dataclass_fields__)


# Facts


MANY = "ar cs da de en es fi fr he hu it ja ko nl no pl pt ru sv th tr uk zh"  # 23, of Phi-3.5 and Phi-4-mini
CONTEXTS = """
smollm2-135m                8192  text              en    no
phi-3-mini-4k               4096  text              en,fr no
phi-3-mini-128k           131072  text              en    no
phi-3-small-8k              8192  text              en    no
phi-3-small-128k          131072  text              en    no
phi-3-medium-4k             4096  text              en    no
phi-3-medium-128k         131072  text              en    no
phi-3-vision              131072  text,image        ?     no
phi-3.5-mini              131072  text              many  no
phi-3.5-moe               131072  text              many  no
phi-3.5-vision            131072  text,image        en    no
phi-4                      16384  text              en    no
phi-4-mini                131072  text              many  yes
phi-4-multimodal          131072  text,image,audio  many  yes
phi-4-reasoning            32768  text              en    no
phi-4-reasoning-plus       32768  text              en    no
phi-4-mini-reasoning      131072  text              en    no
phi-4-mini-flash-reasoning 65536  text              en    no
phi-4-reasoning-vision         ?  text,image        ?     no
"""  # portable name, context, what it takes in, languages of its card, whether it was trained to call tools; ? unknown
LIMITS = """
azure   phi-4                 16384  16384 no
azure   phi-4-mini           131072   4096 no
azure   phi-4-multimodal     131072   4096 no
azure   phi-4-reasoning       32768  32768 no
azure   phi-4-mini-reasoning 128000 128000 no
nvidia  phi-4-mini           131072   8192 yes
nvidia  phi-4-multimodal     128000  16384 no
"""  # Azure's table of 2026-04-16 and NVIDIA's of langchain-nvidia-ai-endpoints 1.5.0: most tokens in and out, tools


def test_what_the_cards_say() -> None:
    table = [line.split() for line in CONTEXTS.strip().splitlines()]
    assert [name for name, *_ in table] == [model.name for model in models()]
    for name, context, takes, languages, tools in table:
        model = find(name)
        assert model is not None
        assert model.context == (None if context == "?" else int(context)), name
        assert model.modalities == tuple(takes.split(",")), name
        expected = {"?": None, "many": set(MANY.split())}.get(languages, set(languages.split(",")))
        assert (None if model.languages is None else set(model.languages)) == expected, name
        assert model.tools == (tools == "yes"), name


def test_what_one_sees_and_hears_in_fewer_languages_than_it_reads() -> None:
    apart = [model for model in models() if model.image_languages or model.audio_languages]
    assert [model.name for model in apart] == ["phi-4-multimodal"]
    assert apart[0].image_languages == ("en",)
    assert set(apart[0].audio_languages or ()) == {"de", "en", "es", "fr", "it", "ja", "pt", "zh"}


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_languages_are_codes(model: Model) -> None:
    for codes in (model.languages, model.image_languages, model.audio_languages):
        assert codes is None or (
            len(set(codes)) == len(codes) and all(re.fullmatch("[a-z]{2}", code) for code in codes)
        )


def test_what_differs_at_a_provider() -> None:
    given = {}
    for line in LIMITS.strip().splitlines():
        where, name, most_in, most_out, tools = line.split()
        given[where, name] = (int(most_in), int(most_out), tools == "yes")
    found = {(each.provider, model.name): (each.max_input, each.max_output, each.tools) for model, each in offers()}
    assert {key: value for key, value in found.items() if value != (None, None, None)} == given
    assert [(each.provider, model.name, each.images) for model, each in offers() if each.images] == [
        ("azure", "phi-3.5-vision", 1)
    ]


# Providers


def test_the_providers() -> None:
    assert {each.name for each in providers() if each.where == "hosted"} == HOSTED
    assert {each.name for each in providers() if each.where == "local"} == LOCAL
    assert len(providers()) == len(HOSTED | LOCAL)
    assert provider("azure") is next(each for each in providers() if each.name == "azure")
    assert provider("openai") is provider("nim") is provider("Azure") is None


def test_github_is_the_one_that_is_gone() -> None:
    gone = [each for each in providers() if each.status != "active"]
    assert [(each.name, each.status, each.on, each.replacement) for each in gone] == [
        ("github", "retired", date(2026, 7, 30), "azure")
    ]


@pytest.mark.parametrize("one", providers(), ids=lambda one: one.name)
def test_a_provider_is_well_formed(one: Provider) -> None:
    assert one.title
    assert re.search(r"\b20\d\d\b", one.source), "a source names its date"
    assert (one.on is not None) == (one.status == "retired")
    assert one.replacement is None or provider(one.replacement) is not None
    assert {field for _, field, _, _ in Formatter().parse(one.reach or "") if field} <= {"name", "id"}
    assert "<" not in (one.reach or ""), "to be copied as it is"


def test_what_is_said_to_be_in_reach_is() -> None:
    """Variables that slmclient reads, with a provider that it has."""
    for one in providers():
        for variable, value in re.findall(r"\b([A-Z_]{4,})=(\S*)", one.reach or ""):
            assert variable in VARIABLES, one.name
            assert variable != "SLM_PROVIDER" or value in registry.ROWS, one.name
    assert {each.name for each in providers() if each.reach is None} == {"github"}


# What is retired, and where


@pytest.mark.parametrize("name", PHI_3)
def test_azure_retired_phi_3(name: str) -> None:
    found = offer(name, "azure")
    assert found is not None
    assert (found.status, found.on) == ("retired", date(2025, 8, 30))
    assert found.replacement in ("phi-4", "phi-4-mini", "phi-4-multimodal")


@pytest.mark.parametrize("name", ["phi-4", "phi-4-mini", "phi-4-mini-reasoning", "phi-4-multimodal", "phi-4-reasoning"])
def test_azure_still_has_phi_4(name: str) -> None:
    found = offer(name, "azure")
    assert found is not None
    assert (found.status, found.on, found.replacement) == ("active", None, None)
    assert providers_of(name)[0] == "azure"


def test_github_retired_everything() -> None:
    hosted = [each for _, each in offers() if each.provider == "github"]
    assert len(hosted) == 14
    assert {(each.status, each.on) for each in hosted} == {("retired", date(2026, 7, 30))}
    assert not any("github" in providers_of(model.name) for model in models())


def test_nvidia_promises_no_phi() -> None:
    status = {model.name: each.status for model, each in offers() if each.provider == "nvidia"}
    doubtful = {"phi-3-vision", "phi-3.5-moe", "phi-4-mini", "phi-4-multimodal"}
    assert {name for name, each in status.items() if each == "unknown"} == doubtful
    assert {name for name, each in status.items() if each == "deprecated"} == {
        *(name for name in PHI_3 if name not in doubtful),
        "phi-4-mini-flash-reasoning",
    }
    assert set(status) == set(PHI_3) | doubtful | {"phi-4-mini-flash-reasoning"}


def test_the_embedded_default() -> None:
    assert provider_id("smollm2-135m", "local") == "SmolLM2-135M-Instruct-Q4_1"
    assert [model.name for model, each in offers() if each.provider == "local"] == ["smollm2-135m"]
    model = find("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert model is not None
    assert (model.context, model.template, model.tools, model.licence) == (8192, None, False, "Apache-2.0")


# Names


TABLE = """
phi-3-mini-4k         Phi-3-mini-4k-instruct      GN  phi3:mini            Phi-3-mini-4k-instruct-onnx
phi-3-medium-4k       Phi-3-medium-4k-instruct    GN  phi3:medium          Phi-3-medium-4k-instruct-onnx-cpu
phi-3-medium-128k     Phi-3-medium-128k-instruct  GN  phi3:medium-128k     Phi-3-medium-128k-instruct-onnx-cpu
phi-3-vision          Phi-3-vision-128k-instruct  N   -                    Phi-3-vision-128k-instruct-onnx-cpu
phi-3.5-mini          Phi-3.5-mini-instruct       GN  phi3.5               Phi-3.5-mini-instruct-onnx
phi-3.5-moe           Phi-3.5-MoE-instruct        GN  -                    -
phi-3.5-vision        Phi-3.5-vision-instruct     GN  -                    Phi-3.5-vision-instruct-onnx
phi-4                 Phi-4                       G   phi4                 phi-4-onnx
phi-4-mini            Phi-4-mini-instruct         GN  phi4-mini            Phi-4-mini-instruct-onnx
phi-4-multimodal      Phi-4-multimodal-instruct   GN  -                    Phi-4-multimodal-instruct-onnx
phi-4-reasoning       Phi-4-reasoning             G   phi4-reasoning       Phi-4-reasoning-onnx
phi-4-mini-reasoning  Phi-4-mini-reasoning        G   phi4-mini-reasoning  Phi-4-mini-reasoning-onnx
"""  # portable name, Azure's, whether GitHub and NVIDIA list it, Ollama's, ONNX repository (of microsoft); - for none


def rows() -> Iterator[tuple[str, str, str]]:
    for line in TABLE.strip().splitlines():
        name, azure, listed, ollama, onnx = line.split()
        yield name, "azure", azure
        yield name, "github", f"microsoft/{azure.lower()}" if "G" in listed else "-"
        yield name, "nvidia", f"microsoft/{azure.lower()}" if "N" in listed else "-"
        yield name, "ollama", ollama
        yield name, "onnx", onnx if onnx == "-" else f"microsoft/{onnx}"


@pytest.mark.parametrize(("name", "provider", "theirs"), list(rows()))
def test_a_portable_name_is_translated(name: str, provider: str, theirs: str) -> None:
    assert provider_id(name, provider) == (name if theirs == "-" else theirs)


@pytest.mark.parametrize(
    ("written", "provider", "sent"),
    [
        ("phi-4-mini-instruct", "nvidia", "microsoft/phi-4-mini-instruct"),
        ("PHI-4-MINI", "nvidia", "microsoft/phi-4-mini-instruct"),
        ("microsoft/Phi-4-mini-instruct", "azure", "Phi-4-mini-instruct"),
        ("microsoft/Phi-4-mini-instruct", "nvidia", "microsoft/phi-4-mini-instruct"),  # an alias: theirs is lower case
        ("microsoft/Phi-4-mini-instruct", "ollama", "phi4-mini"),
        ("phi4-mini", "azure", "Phi-4-mini-instruct"),  # one provider's id, at another
        ("microsoft/phi-4-onnx", "ollama", "phi4"),
        ("phi-3-mini", "ollama", "phi3:mini"),
        ("phi-4", "azure", "Phi-4"),  # a portable name, though it differs from the id by its case only
    ],
)
def test_other_spellings_are_translated(written: str, provider: str, sent: str) -> None:
    assert provider_id(written, provider) == sent


@pytest.mark.parametrize(
    ("written", "provider"),
    [
        ("my-deployment", "azure"),
        ("llama3.2:3b", "ollama"),
        ("phi4:14b", "ollama"),  # a tag the catalogue does not list
        ("phi3", "ollama"),
        ("", "azure"),
        ("phi-4-mini", "openai"),  # self-hosted servers get the name as written
        ("phi-4", "nvidia"),  # no offer there
        ("smollm2-135m", "azure"),
    ],
)
def test_what_the_catalogue_does_not_know_passes_unchanged(written: str, provider: str) -> None:
    assert provider_id(written, provider) == written
    assert offer(written, provider) is None


GGUF = """
phi-3-mini-4k        microsoft/Phi-3-mini-4k-instruct-gguf
phi-3-mini-128k      bartowski/Phi-3-mini-128k-instruct-GGUF
phi-3-medium-4k      bartowski/Phi-3-medium-4k-instruct-GGUF
phi-3-medium-128k    bartowski/Phi-3-medium-128k-instruct-GGUF
phi-3.5-mini         bartowski/Phi-3.5-mini-instruct-GGUF
phi-3.5-moe          bartowski/Phi-3.5-MoE-instruct-GGUF
phi-4                microsoft/phi-4-gguf
phi-4-mini           unsloth/Phi-4-mini-instruct-GGUF
phi-4-reasoning      unsloth/Phi-4-reasoning-GGUF
phi-4-reasoning-plus unsloth/Phi-4-reasoning-plus-GGUF
phi-4-mini-reasoning unsloth/Phi-4-mini-reasoning-GGUF
smollm2-135m         HuggingFaceTB/SmolLM2-135M-Instruct-GGUF
"""


def test_llama_cpp_has_files_of_the_text_models_that_it_runs() -> None:
    given = dict(line.split() for line in GGUF.strip().splitlines())
    assert {model.name: each.id for model, each in offers() if each.provider == "llamacpp"} == given


def test_transformers_takes_the_hugging_face_id() -> None:
    pairs = [(model, each) for model, each in offers() if each.provider == "transformers"]
    assert [model for model, _ in pairs] == list(models())
    assert all(each.id in model.aliases and "/" in each.id for model, each in pairs)
    here = {model.name: each for model, each in pairs}
    assert {name for name, each in here.items() if each.status == "unknown"} == {  # what needs code of its repository
        *("phi-3-small-8k", "phi-3-small-128k", "phi-3-vision", "phi-3.5-vision"),
        *("phi-4-multimodal", "phi-4-mini-flash-reasoning", "phi-4-reasoning-vision"),
    }
    for name in ("phi-3-vision", "phi-3.5-vision", "phi-4-multimodal"):
        assert "remote code" in here[name].source


@pytest.mark.parametrize(
    ("written", "new", "old"),
    [
        ("phi-3.5-mini", "microsoft/phi-3.5-mini-instruct", "Phi-3.5-mini-instruct"),
        ("Phi-3.5-mini-instruct", "microsoft/phi-3.5-mini-instruct", "Phi-3.5-mini-instruct"),
        ("microsoft/phi-3.5-mini-instruct", "microsoft/phi-3.5-mini-instruct", "Phi-3.5-mini-instruct"),
        ("microsoft/Phi-3.5-MoE-instruct", "microsoft/phi-3.5-moe-instruct", "Phi-3.5-MoE-instruct"),
        ("phi-4", "microsoft/phi-4", "Phi-4"),
        ("Phi-4", "microsoft/phi-4", "Phi-4"),
        ("phi4-mini", "microsoft/phi-4-mini-instruct", "Phi-4-mini-instruct"),
        ("phi-4-reasoning-plus", "phi-4-reasoning-plus", "phi-4-reasoning-plus"),  # was never there
        ("smollm2-135m", "smollm2-135m", "smollm2-135m"),
        ("openai/gpt-4o", "openai/gpt-4o", "openai/gpt-4o"),
    ],
)
def test_both_eras_of_github_have_their_ids(written: str, new: str, old: str) -> None:
    assert provider_id(written, "github") == new
    assert legacy_id(written) == old


def test_a_provider_s_own_id_comes_back_unchanged() -> None:
    for _, each in offers():
        assert provider_id(each.id, each.provider) == each.id


@pytest.mark.parametrize("written", ["phi-4-mini-instruct", "PHI-4-MINI-INSTRUCT", "PHI-4", "phi-4-MINI-reasoning"])
def test_a_deployment_named_like_the_model_keeps_its_case(written: str) -> None:
    assert provider_id(written, "azure") == written
    assert offer(written, "azure") is not None


def test_find_knows_every_spelling_in_any_case() -> None:
    for model in models():
        for key in keys(model):
            assert find(key) is find(key.upper()) is model
    assert find("gpt-9") is None


def test_providers_of_puts_the_certain_ones_first() -> None:
    engines = ("llamacpp", "ollama", "onnx", "transformers", "openvino", "mlx")
    assert providers_of("phi-4-mini") == ("azure", *engines, "nvidia")
    assert providers_of("phi-3.5-mini-instruct") == (*engines, "nvidia")
    assert providers_of("phi-4-mini-flash-reasoning") == ("azure", "nvidia", "transformers")
    assert providers_of("smollm2-135m")[0] == "local"
    assert providers_of("gpt-9") == ()


# Where to go instead


@pytest.mark.parametrize(
    "written", ["phi-3.5-mini", "PHI-3.5-MINI", "microsoft/Phi-3.5-mini-instruct", "microsoft/phi-3.5-mini-instruct"]
)
def test_a_name_of_what_azure_retired_has_the_offer(written: str) -> None:
    found = retirement(written, "azure")
    assert found is offer("phi-3.5-mini", "azure")
    assert found is not None
    assert (found.on, found.replacement) == (date(2025, 8, 30), "phi-4-mini")


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ("Phi-3.5-mini-instruct", "azure"),  # an alias and Azure's own id: it may be the name of a deployment
        ("phi-3.5-MINI-instruct", "azure"),
        ("phi-4", "azure"),  # not retired
        ("phi-3.5-mini", "nvidia"),  # deprecated
        ("phi-3.5-mini", "ollama"),
        ("phi-3.5-mini", "openai"),
        ("my-phi-3.5", "azure"),
        ("", "azure"),
        ("microsoft/phi-3.5-mini-instruct", "github"),  # its own, of the new endpoint and of the old one
        ("Phi-3.5-mini-instruct", "github"),
        ("Phi-4", "github"),
        ("phi-4-reasoning-plus", "github"),  # was never there
    ],
)
def test_what_is_not_retired_or_the_caller_s_business_is_none(written: str, where: str) -> None:
    assert retirement(written, where) is None


def test_a_portable_name_is_never_an_id_of_the_caller_s() -> None:
    """Though at GitHub's old endpoint phi-4 differed from the id by its case only."""
    assert retirement("phi-4", "github") is offer("phi-4", "github")
    for model, each in offers():
        assert retirement(model.name, each.provider) is (each if each.status == "retired" else None)


def where(name: str, left: str) -> list[str]:
    return [host.name for host, _ in elsewhere(name, left)]


def test_elsewhere_starts_on_the_own_machine_and_ends_with_the_doubtful() -> None:
    own = ["llamacpp", "ollama", "onnx", "transformers", "openvino", "mlx"]
    assert where("phi-4-mini", "github") == [*own, "azure", "nvidia"]
    assert where("phi-4-mini", "azure") == [*own, "nvidia"]
    assert where("Phi-3.5-mini-instruct", "azure") == [*own, "nvidia"]
    assert where("smollm2-135m", "azure") == ["local", "llamacpp", "ollama", "transformers"]
    assert where("phi-4-reasoning-vision", "azure") == ["transformers"]
    assert where("gpt-9", "azure") == []


def test_elsewhere_leads_nowhere_that_is_gone_or_out_of_reach() -> None:
    for model in models():
        for left in ("", *HOSTED, *LOCAL):
            for host, each in elsewhere(model.name, left):
                assert each in model.offers
                assert each.provider == host.name != left
                assert "retired" not in (host.status, each.status)
                assert host.reach is not None


def test_directions_say_what_to_type() -> None:
    told = directions("phi-3.5-mini", "azure")
    for part in (
        "llamacpp (SLM_PROVIDER=llamacpp SLM_MODEL=phi-3.5-mini)",
        "ollama (`slm pull ollama:phi-3.5-mini`, then SLM_PROVIDER=ollama SLM_MODEL=phi-3.5-mini)",
        "The nearest living model at azure is phi-4-mini.",
    ):
        assert part in told
    assert "nvidia" not in told, "where it is certain, the doubtful is not worth the words"
    assert "azure (SLM_PROVIDER=azure SLM_MODEL=phi-4-mini)" in directions("phi-4-mini", "nvidia")
    assert directions("microsoft/Phi-3.5-mini-instruct", "azure") == told


@pytest.mark.parametrize(
    ("name", "left", "nearest"),
    [
        ("phi-3.5-vision", "azure", "at azure is phi-4-multimodal."),
        ("phi-3.5-mini", "github", "at azure is phi-4-mini."),  # where GitHub itself points to
        ("phi-4-mini-flash-reasoning", "nvidia", "at azure is phi-4-mini-reasoning."),
        ("phi-3-mini-4k", "nvidia", "at azure is phi-4-mini."),  # NVIDIA's is not known to live
    ],
)
def test_directions_end_with_the_nearest_model_that_lives(name: str, left: str, nearest: str) -> None:
    assert directions(name, left).endswith(f"The nearest living model {nearest}")


def test_doubtful_directions_are_given_as_such() -> None:
    assert directions("phi-3-small-8k", "azure").startswith(
        "phi-3-small-8k may still be had: transformers (SLM_PROVIDER=transformers "
    )


def test_directions_are_short_and_end_like_a_sentence() -> None:
    for model in models():
        for left in (*HOSTED, *LOCAL):
            told = directions(model.name, left)
            assert len(told) <= 350, (model.name, left)
            assert "{" not in told
            assert "None" not in told
            assert told == "" or told.endswith(".")
            assert told or not elsewhere(model.name, left), "there is something to say"
    assert directions("gpt-9", "azure") == directions("", "azure") == ""


@pytest.fixture
def invent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put other data into the catalogue: rules that the real data has no case of, today."""

    def install(*invented: Model, **changes: Provider) -> None:
        hosts = tuple(changes.get(each.name, each) for each in providers())
        monkeypatch.setattr(catalogue, "models", lambda: invented)
        monkeypatch.setattr(catalogue, "providers", lambda: hosts)
        catalogue._index.cache_clear()

    yield install
    monkeypatch.undo()
    catalogue._index.cache_clear()


def a_model(name: str, **status: Status) -> Model:
    """Return a model with an offer at each provider named."""
    there = [Offer(host, f"{name}-there", state, None, None, "2026") for host, state in status.items()]
    return replace(models()[0], name=name, aliases=(), offers=tuple(there))


def test_the_certain_come_before_the_doubtful(invent: Callable[..., None]) -> None:
    invent(a_model("one", nvidia="unknown", azure="active", ollama="deprecated", local="active"))
    assert where("one", "openai") == ["local", "ollama", "azure", "nvidia"]


def test_a_provider_that_is_gone_is_gone_for_all_its_models(invent: Callable[..., None]) -> None:
    azure = provider("azure")
    assert azure is not None
    invent(a_model("one", azure="active", local="active"), azure=replace(azure, status="retired"))
    assert where("one", "nvidia") == ["local"]


def test_the_nearest_model_is_looked_for_at_the_same_provider_first(invent: Callable[..., None]) -> None:
    old = a_model("old", nvidia="deprecated")
    old = replace(old, offers=(replace(old.offers[0], replacement="new"),))
    invent(old, a_model("new", local="active", azure="active", nvidia="active"))
    assert directions("old", "nvidia") == "The nearest living model at nvidia is new."
    invent(old, a_model("new", local="active", azure="active", nvidia="retired"))
    assert directions("old", "nvidia") == "The nearest living model at azure is new."
    invent(old, a_model("new", local="active"))
    assert directions("old", "nvidia") == "The nearest living model at local is new."


def test_find_knows_an_id_of_an_older_endpoint_that_nothing_else_is_called(invent: Callable[..., None]) -> None:
    one = a_model("one", github="retired")
    invent(replace(one, offers=(replace(one.offers[0], legacy_id="Uno"),)))
    assert find("uno") is find("one") is not None
    assert (provider_id("Uno", "github"), legacy_id("one-there")) == ("one-there", "Uno")
    assert retirement("uno", "github") is None


def test_importing_reads_nothing_and_each_file_is_read_once() -> None:
    code = (
        "import sys\n"
        "opened = []\n"
        "def watch(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('.json'): opened.append(args[0])\n"
        "sys.addaudithook(watch)\n"
        "from slmclient import catalogue\n"
        "assert not opened, 'the import read the data'\n"
        "catalogue.find('phi-4'); catalogue.provider_id('phi-4', 'azure'); catalogue.models()\n"
        "assert len(opened) == 1, opened\n"
        "catalogue.directions('phi-4', 'azure'); catalogue.providers_of('phi-4'); catalogue.provider('azure')\n"
        "assert len(opened) == 2, opened\n"
    )
    root = str(Path(catalogue.__file__).parents[2])
    result = subprocess.run(  # -I: what this process has imported, or its environment, does not count
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
