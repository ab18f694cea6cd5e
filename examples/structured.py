"""An object instead of text: the model's answer as a pydantic model, checked.

    python examples/structured.py

Which provider answers is a matter of the environment; with nothing set it is the local model.
"""

from typing import Annotated

from pydantic import BaseModel, Field

from slmclient import PhiClient

Words = Annotated[str, Field(max_length=40)]  # small models do not always find an end by themselves


class City(BaseModel):
    name: Words
    country: Words


with PhiClient() as client:
    reply = client.chat("In which country is the city of Rome?", response_format=City, temperature=0)
    city: City = reply.parsed
    print(f"{city.name}, {city.country} (by {reply.structured}, asked again {reply.reasks} times)")
