"""The catalogue: the data holds together, names translate, and nothing unknown is stopped."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import get_args

import pytest

from slmclient import catalogue
from slmclient.catalogue import Model, Offer, Status, find, models, offer, provider_id, providers_of

PROVIDERS = {"azure", "github", "local", "nvidia", "ollama", "onnx"}
PHI_3 = [model.name for model in models() if model.family in ("phi-3", "phi-3.5")]
DATA = Path(catalogue.__file__).with_name("models.json")


def offers() -> list[tuple[Model, Offer]]:
    return [(model, each) for model in models() for each in model.offers]


def keys(model: Model) -> set[str]:
    return {key.casefold() for key in (model.name, *model.aliases, *(each.id for each in model.offers))}


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
    assert model.context >= 4096
    assert model.context % 1024 == 0
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
    assert model.reasoning is None or (model.reasoning.open, model.reasoning.close) == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("model", "one"), [pytest.param(model, each, id=f"{model.name} at {each.provider}") for model, each in offers()]
)
def test_an_offer_is_well_formed(model: Model, one: Offer) -> None:
    assert one.provider in PROVIDERS
    assert one.id
    assert one.status in get_args(Status)
    assert re.search(r"\b20\d\d\b", one.source) or one.provider == "local", "a source names its date"
    assert (one.on is not None) == (one.status == "retired")
    assert one.on is None or date(2024, 4, 23) < one.on < date(2027, 1, 1)  # Phi-3 came out on the first
    assert one.replacement is None or one.status != "active", "what is there needs no replacement"


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
    assert {key for entry in json.loads(DATA.read_bytes()) for key in entry} == set(Model.__dataclass_fields__)


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
    assert providers_of("phi-4-mini") == ("azure", "ollama", "onnx", "nvidia")
    assert providers_of("phi-3.5-mini-instruct") == ("ollama", "onnx", "nvidia")
    assert providers_of("phi-4-mini-flash-reasoning") == ("azure", "nvidia")
    assert providers_of("smollm2-135m") == ("local",)
    assert providers_of("gpt-9") == ()


def test_importing_reads_nothing_and_the_file_is_read_once() -> None:
    code = (
        "import sys\n"
        "opened = []\n"
        "def watch(event, args):\n"
        "    if event == 'open' and 'models.json' in str(args[0]): opened.append(args[0])\n"
        "sys.addaudithook(watch)\n"
        "from slmclient import catalogue\n"
        "assert not opened, 'the import read the data'\n"
        "catalogue.find('phi-4'); catalogue.provider_id('phi-4', 'azure'); catalogue.models()\n"
        "assert len(opened) == 1, opened\n"
    )
    root = str(Path(catalogue.__file__).parents[2])
    result = subprocess.run(  # -I: what this process has imported, or its environment, does not count
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
