"""How often a small model's answer is what was asked for: bound by a grammar, and told in the prompt, with re-asks.

    python benchmarks/structured.py [--asks 50] [--json]

Fifty questions over five small forms go to the embedded model, at temperature 0. Counted: how many answers validate,
after how many re-asks, and how many are true: a valid answer need not be. It exits with 1 if one that was bound does
not validate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from slmclient import PhiClient
from slmclient.drivers.base import Driver, DriverConfig, Feature
from slmclient.drivers.llamacpp import LlamaCppDriver
from slmclient.errors import StructuredOutputError
from slmclient.policy.wrapper import Lent

REASKS = 2
MAX_TOKENS = 100
Short = Annotated[str, Field(max_length=40)]


class City(BaseModel):
    name: Short
    country: Short


class Person(BaseModel):
    name: Short
    age: int = Field(ge=0, le=130)


class Ticket(BaseModel):
    product: Short
    kind: Literal["bug", "question", "praise"]


Fruit = Annotated[list[Short], Field(min_length=3, max_length=3)]
Mood = Literal["positive", "negative"]

CITIES = {
    "Paris": "France", "Rome": "Italy", "Tokyo": "Japan", "Oslo": "Norway", "Madrid": "Spain", "Berlin": "Germany",
    "Cairo": "Egypt", "Lima": "Peru", "Athens": "Greece", "Dublin": "Ireland",
}  # fmt: skip
PEOPLE = {
    "Ada": 36, "Bob": 41, "Carol": 29, "David": 63, "Emma": 18, "Frank": 77, "Grace": 52, "Henry": 24, "Iris": 33,
    "Jack": 45,
}  # fmt: skip
TICKETS = [
    ("The printer prints only blank pages.", "printer", "bug"),
    ("How do I change the language of the phone?", "phone", "question"),
    ("I love the new camera, thank you!", "camera", "praise"),
    ("The app crashes when I open it.", "app", "bug"),
    ("Where is the button that turns the lamp off?", "lamp", "question"),
    ("The best radio I have ever had.", "radio", "praise"),
    ("My keyboard types every letter twice.", "keyboard", "bug"),
    ("Can the watch be used under water?", "watch", "question"),
    ("The headphones sound wonderful.", "headphones", "praise"),
    ("The screen stays black after the update.", "screen", "bug"),
]
LISTS = ["fruits", "colours", "animals", "countries", "planets", "vegetables", "sports", "rivers", "cities", "birds"]
REVIEWS = {
    "A wonderful film, I loved it.": "positive",
    "The food was cold and the waiter was rude.": "negative",
    "Best holiday of my life!": "positive",
    "It broke after one day.": "negative",
    "Very friendly staff and a clean room.": "positive",
    "I want my money back.": "negative",
    "A great book for the whole family.": "positive",
    "The worst hotel I have ever seen.": "negative",
    "It works perfectly.": "positive",
    "Boring and far too long.": "negative",
}

Ask = tuple[str, str, Any, Callable[[Any], bool] | None]
"""Form, prompt, response_format, and whether an answer is true, where that can be said."""


def asks() -> list[Ask]:
    """Return the fifty questions, the forms by turns."""
    of_form: list[list[Ask]] = [
        [
            ("city", f"In which country is the city of {city}?", City,
             lambda c, n=city, w=country: (c.name, c.country) == (n, w))
            for city, country in CITIES.items()
        ],
        [
            ("person", f"{name} is {age} years old and lives in London. Who is it, and how old?", Person,
             lambda p, n=name, a=age: (p.name, p.age) == (n, a))
            for name, age in PEOPLE.items()
        ],
        [
            ("ticket", f"A customer writes: {text} Which product is it about, and is it a bug, a question or praise?",
             Ticket, lambda t, p=product, k=kind: p in t.product.lower() and t.kind == k)
            for text, product, kind in TICKETS
        ],
        [("list", f"Name three {what}.", Fruit, None) for what in LISTS],
        [
            ("mood", f"Is this review positive or negative? {text}", Mood, lambda m, w=mood: m == w)
            for text, mood in REVIEWS.items()
        ],
    ]  # fmt: skip
    return [ask for turn in zip(*of_form, strict=True) for ask in turn]


class Unbound(Lent):
    """A driver that cannot be told of a format: the schema goes into the prompt."""

    @property
    def features(self) -> frozenset[Feature]:
        return self.inner.features - {Feature.RESPONSE_FORMAT}


def measure(driver: Driver, questions: list[Ask]) -> dict[str, Any]:
    """Return the counts of one way to ask."""
    client = PhiClient(driver=driver)
    after = [0] * (REASKS + 1)
    true = judged = tokens = 0
    by_form: dict[str, list[int]] = {}
    failed: list[dict[str, Any]] = []
    began = time.monotonic()
    strategies: set[str | None] = set()
    for form, prompt, wanted, is_true in questions:
        valid, right, of = by_form.setdefault(form, [0, 0, 0])
        try:
            reply = client.chat(
                prompt, response_format=wanted, temperature=0, seed=1, max_tokens=MAX_TOKENS, max_reasks=REASKS
            )
        except StructuredOutputError as error:
            failed.append({"prompt": prompt, "problem": error.problems[-1], "text": error.replies[-1].text[:120]})
            strategies.add(error.replies[-1].structured)
            tokens += sum(reply.usage.output_tokens for reply in error.replies)
            by_form[form] = [valid, right, of + 1]
            judged += is_true is not None
            continue
        strategies.add(reply.structured)
        after[reply.reasks] += 1
        tokens += reply.usage.output_tokens
        fits = is_true is not None and is_true(reply.parsed)
        judged, true = judged + (is_true is not None), true + fits
        by_form[form] = [valid + 1, right + fits, of + 1]
    counted = [sum(after[: most + 1]) for most in range(REASKS + 1)]
    return {
        "strategy": sorted(map(str, strategies)),
        "asks": len(questions),
        "valid": counted,
        "judged": judged,
        "true": true,
        "by_form": by_form,
        "output_tokens": tokens,
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Structured answers of the embedded model.")
    parser.add_argument("--asks", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--bound-only", action="store_true", help="leave the prompt out: quicker")
    given = parser.parse_args()
    questions = asks()[: given.asks]
    driver = LlamaCppDriver(DriverConfig("local", "smollm2-135m", cache_dir=os.environ.get("SLM_CACHE")))
    try:
        results = {"bound": measure(Lent(driver), questions)}
        if not given.bound_only:
            results["prompt"] = measure(Unbound(driver), questions)
    finally:
        driver.close()
    if given.json:
        print(json.dumps(results, indent=2))
    else:
        table(results)
    sys.exit(results["bound"]["valid"][0] != len(questions))


def table(results: dict[str, dict[str, Any]]) -> None:
    """Print the results as a Markdown table."""
    print("| how | strategy | asks | valid at once | with 1 re-ask | with 2 | true | output tokens | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for how, result in results.items():
        cells = (how, ", ".join(result["strategy"]), result["asks"], *result["valid"])
        print(f"| {' | '.join(map(str, cells))} | {result['true']} of {result['judged']} ", end="")
        print(f"| {result['output_tokens']} | {result['seconds']} |")
    for how, result in results.items():
        for form, (valid, right, of) in result["by_form"].items():
            print(f"{how}, {form}: {valid} of {of} valid, {right} true")


if __name__ == "__main__":
    main()
