"""`slm models`, as a person runs it: in a process of its own, to a pipe and to a terminal of 80 columns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any, get_args

import pytest

from slmclient import catalogue
from slmclient.catalogue import Model, Offer

SLM = [sys.executable, "-m", "slmclient.cli", "models"]
LIMIT = 120  # seconds, for what should take less than one
posix = pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")


def models(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `slm models`, hold it to its exit code, and return what it wrote."""
    done = subprocess.run(
        [*SLM, *arguments],
        env={**os.environ, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == code, done
    return done


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(models("--json", *arguments).stdout)
    return found


def pairs(*arguments: str) -> list[tuple[str, str]]:
    """Return model and provider of every line."""
    lines = [line.split() for line in models(*arguments).stdout.splitlines()]
    return [(line[0], line[4]) for line in lines]


def offers() -> list[tuple[Model, Offer]]:
    return [(model, offer) for model in catalogue.models() for offer in model.offers]


def test_it_lists_every_model_with_its_providers() -> None:
    lines = [line.split() for line in models().stdout.splitlines()]
    assert [(line[0], line[4], line[-1]) for line in lines] == [
        (model.name, offer.provider, offer.id) for model, offer in offers()
    ]
    assert {line[0] for line in lines} == {model.name for model in catalogue.models()}
    assert [
        "phi-4-multimodal",
        "5.6B",
        "128k",
        "text,image,audio",
        "azure",
        "active",
        "Phi-4-multimodal-instruct",
    ] in lines
    assert {"transformers", "onnx", "mlx"} <= {line[4] for line in lines}


def test_each_line_says_the_state_once() -> None:
    """`slm models | grep -w active` finds what is there, and nothing else."""
    for line in models().stdout.splitlines():
        (state,) = re.findall(rf"\b(?:{'|'.join(get_args(catalogue.Status))})\b", line)
        assert (state == "retired") == bool(re.search(r" retired 20\d\d-\d\d-\d\d ", line))


def test_as_json_it_has_the_same() -> None:
    found = listed()
    assert [model["name"] for model in found] == [model.name for model in catalogue.models()]
    assert [(model["name"], offer["provider"]) for model in found for offer in model["offers"]] == pairs()
    mini = next(model for model in found if model["name"] == "phi-3-mini-4k")
    assert (mini["context"], mini["languages"]) == (4096, ["en", "fr"])
    azure, _, nvidia, *_ = mini["offers"]
    assert (azure["status"], azure["on"], azure["replacement"]) == ("retired", "2025-08-30", "phi-4-mini")
    assert (azure["reach"], nvidia["reach"]) == (None, "SLM_PROVIDER=nvidia SLM_MODEL=phi-3-mini-4k")


# Filters


def test_a_provider_alone() -> None:
    expected = [(model.name, "azure") for model, offer in offers() if offer.provider == "azure"]
    assert pairs("--provider", "azure") == pairs("-p", "azure") == expected


def test_a_state_alone() -> None:
    expected = [(model.name, offer.provider) for model, offer in offers() if offer.status == "deprecated"]
    assert len(expected) > 5
    assert pairs("--status", "deprecated") == expected


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        ("image", {"phi-3-vision", "phi-3.5-vision", "phi-4-multimodal", "phi-4-reasoning-vision"}),
        ("audio", {"phi-4-multimodal"}),
    ],
)
def test_a_modality_alone(modality: str, names: set[str]) -> None:
    assert {name for name, _ in pairs("--modality", modality)} == names


def test_every_model_takes_text() -> None:
    assert pairs("--modality", "text") == pairs()


def test_filters_hold_together() -> None:
    """What Azure still has for images: the vision models of Phi-3 and Phi-3.5 are gone."""
    asked = ["--provider", "azure", "--modality", "image", "--status", "active"]
    assert pairs(*asked) == [("phi-4-multimodal", "azure"), ("phi-4-reasoning-vision", "azure")]
    found = listed(*asked)
    assert [model["name"] for model in found] == ["phi-4-multimodal", "phi-4-reasoning-vision"]
    assert [[offer["provider"] for offer in model["offers"]] for model in found] == [["azure"], ["azure"]]


def test_an_alias_means_its_provider() -> None:
    assert pairs("--provider", "nim") == pairs("--provider", "nvidia")
    assert pairs("--provider", "nim")


@pytest.mark.parametrize("name", ["transformers", "openvino", "mlx"])
def test_what_an_engine_has_is_listed_when_asked_for(name: str) -> None:
    said = models("--provider", name)
    assert len(said.stdout.splitlines()) == len([1 for _, offer in offers() if offer.provider == name])
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("--provider", "azzure", [each.name for each in catalogue.providers()]),
        ("--modality", "video", ["text", "image", "audio"]),
        ("--status", "gone", list(get_args(catalogue.Status))),
        ("--status", "Active", list(get_args(catalogue.Status))),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"], ["phi-4"]], ids=["list", "json", "one"])
def test_a_value_that_does_not_exist_is_a_usage_error(
    option: str, value: str, right: list[str], more: list[str]
) -> None:
    said = models(option, value, *more, code=2)
    assert said.stdout == ""
    assert f"{option}: {value!r} is not one of {', '.join(right)}." in " ".join(said.stderr.split())


@pytest.mark.parametrize(
    "asked",
    [
        ["--provider", "github", "--status", "active"],
        ["--provider", "mlx", "--modality", "image"],
        ["--provider", "openai"],  # a provider that has what its server has
        ["--modality", "audio", "--status", "deprecated"],
        ["phi-4", "--modality", "audio"],
        ["phi-4", "--provider", "nvidia"],
    ],
    ids=" ".join,
)
def test_what_finds_nothing_says_so_and_is_no_error(asked: list[str]) -> None:
    said = models(*asked)
    assert said.stderr == f"Nothing in the catalogue fits {' '.join(asked)}.\n"
    if asked[0].startswith("--"):
        assert said.stdout == ""
        assert listed(*asked) == []
    else:
        assert json.loads(models("--json", *asked).stdout)["offers"] == []


# One model


def test_one_model_has_its_languages_limits_and_sources() -> None:
    said = models("Phi-4-multimodal-instruct").stdout
    assert said.startswith("phi-4-multimodal ")
    model = catalogue.find("phi-4-multimodal")
    assert model is not None
    for part in (
        "languages: ar zh cs ",
        "languages of images: en\n",
        "spoken languages: en zh ",
        "limits: 131,072 tokens in, 4,096 tokens out, no tools\n",  # Azure
        "limits: 128,000 tokens in, 16,384 tokens out, no tools\n",  # NVIDIA
        "older id: Phi-4-multimodal-instruct\n",
        "use: SLM_PROVIDER=azure SLM_MODEL=phi-4-multimodal\n",
        "transformers  microsoft/Phi-4-multimodal-instruct  unknown\n",
        *(source.text for source in model.sources),
        *(offer.source for offer in model.offers),
    ):
        assert part in said
    assert "limits: 1 image in a message\n" in models("phi-3.5-vision").stdout
    assert "context: unknown" in models("phi-4-reasoning-vision").stdout
    assert "languages: unknown\n" in models("phi-4-reasoning-vision").stdout


def test_one_model_as_json_has_every_provider() -> None:
    found = json.loads(models("phi-4-mini", "--json").stdout)
    model = catalogue.find("phi-4-mini")
    assert model is not None
    assert found["name"] == "phi-4-mini"
    assert [offer["provider"] for offer in found["offers"]] == [offer.provider for offer in model.offers]
    assert (found["offers"][0]["max_input"], found["offers"][0]["tools"]) == (131072, False)
    assert {fact for source in found["sources"] for fact in source["facts"]} >= {"context", "languages", "licence"}


def test_one_model_at_one_provider() -> None:
    said = models("phi-4-mini", "-p", "nim").stdout
    assert "\nnvidia  microsoft/phi-4-mini-instruct  unknown\n" in said
    assert "Phi-4-mini-instruct  active" not in said


def test_what_is_gone_is_not_recommended() -> None:
    said = models("phi-3.5-mini", "-p", "azure").stdout
    assert "instead: phi-4-mini\n" in said
    assert "use:" not in said


def test_the_closest_model_is_named() -> None:
    assert "Did you mean 'phi-4-mini'?" in models("phi-4-minni", code=1).stderr


# On a terminal


def shown(*arguments: str) -> list[str]:
    """Return the lines that a terminal of 80 columns gets, without their colours."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "PYTHONUTF8": "1", "TERM": "xterm"}
    with subprocess.Popen([*SLM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as run:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(ours)
        assert run.wait(timeout=LIMIT) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n").splitlines()


@posix
@pytest.mark.parametrize(
    "asked", [[], *(["--provider", each.name] for each in catalogue.providers())], ids=lambda asked: "".join(asked[1:])
)
def test_the_table_fits_a_terminal(asked: list[str]) -> None:
    lines = shown(*asked)
    assert lines
    assert max(len(line) for line in lines) <= 80


@posix
def test_on_a_terminal_each_model_has_its_providers_below_it() -> None:
    lines = shown("--modality", "audio")
    assert lines[0].split() == ["phi-4-multimodal", "5.6B", "128k", "text,image,audio"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["azure", "active"],
        ["github", "retired"],
        ["nvidia", "unknown"],
        ["onnx", "active"],
        ["transformers", "unknown"],
    ]
    assert all(line.startswith("  ") for line in lines[1:])
    assert len({line.index(line.split()[-1]) for line in lines[1:]}) == 1, "the ids stand below each other"
