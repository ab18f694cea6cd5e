"""Python functions as tools: what a model is told of them, and its arguments as values. Nothing here runs one."""

from slmclient.tools.declared import Tool, as_tool, as_tools, tool

__all__ = ["Tool", "as_tool", "as_tools", "tool"]
