"""An agent that answers with a list of steps, as objects: the notebook on Phi-3.5-MoE of "Generative AI for Beginners".

    python examples/agent_steps.py

The notebook describes two tools in the system message, asks for JSON, and gets a text with a fence in it. Here the
same steps come as pydantic models. The plan is the model's, and nothing of it is run. What the fields mean a model
learns from the example in the prompt: a grammar binds its answer and tells it nothing.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from slmclient import PhiClient

SYSTEM = """You are an AI agent with two tools: Blog writes a blog post, Translate translates it.
Answer with the steps as JSON. An example for "Write about cats, and translate it into French.":
[{"agentid": 1, "tool_name": "Blog", "input": "cats", "output": "a post about cats"},
 {"agentid": 2, "tool_name": "Translate", "input": "a post about cats", "output": "the post in French"},
 {"agentid": 3, "tool_name": "Result", "input": "the post in French", "output": "done"}]"""
TASK = "Write about generative AI with mixture of experts, and translate it into Chinese."

Words = Annotated[str, Field(max_length=120)]


class Step(BaseModel):
    agentid: int = Field(ge=1, le=9)
    tool_name: Literal["Blog", "Translate", "Result"]
    input: Words
    output: Words


Plan = Annotated[list[Step], Field(min_length=2, max_length=4)]

with PhiClient() as client:
    reply = client.chat(TASK, system=SYSTEM, response_format=Plan, temperature=0, max_tokens=700)
    steps: list[Step] = reply.parsed
    for step in steps:
        print(f"{step.agentid}. {step.tool_name}: {step.input!r} → {step.output!r}")
