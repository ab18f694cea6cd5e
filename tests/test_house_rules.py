"""The house rules of CONTRIBUTING.md, read off the source. Docstrings and imports for types alone do not count."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "slmclient"

PROVIDERS = {"azure", "github", "llamacpp", "mlx", "nvidia", "ollama", "onnx", "openvino", "transformers"}
DRIVERS = " ".join(f"drivers.{name}" for name in sorted(PROVIDERS | {"openai"}))
LAYERS = (  # from the top; a file imports only from its own row and those below
    "__init__ __main__ cli testing",
    "client construction conversation stream",
    "answer",
    "policy",
    "drivers.registry settings destination dotenv_file environment given",
    DRIVERS,
    "drivers.addresses drivers.apart drivers.asyncio_streams drivers.base drivers.counting drivers.credential"
    " drivers.engine drivers.fetch drivers.http drivers.hub drivers.images drivers.lines drivers.opening"
    " drivers.prompt drivers.pump drivers.pumps drivers.sdk drivers.sdk_lines drivers.sdk_route drivers.secret"
    " drivers.steps drivers.transport",
    "phi",
    "drivers.wire",
    "catalogue chat clock code_blocks errors hosts json_schema json_text lengths media messages output reply request"
    " tools",
)
ROWS = {module: row for row, modules in enumerate(LAYERS) for module in modules.split()}
HOMES = {  # what nothing but these files, or the files below these folders, may use
    "httpx": (),
    "httpcore2": (*("drivers/addresses.py", "drivers/asyncio_streams.py", "drivers/lines.py", "drivers/transport.py"),),
    "httpx2": ("drivers/addresses.py", "drivers/lines.py"),
    "os.environ": ("environment.py",),
    "os.getenv": ("environment.py",),
    "time.sleep": ("clock.py",),
    "asyncio.sleep": ("clock.py", "drivers/asyncio_streams.py"),
    "base64": ("media/",),
    "print": ("cli/",),
}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

Offences = Iterator[tuple[int, str]]
Rule = Callable[[str, str], Offences]


def layers(path: str, source: str) -> Offences:
    """Imports lead downwards, and to a provider's driver no import leads: the registry holds its name as a string."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    tree, own = code(source), row(module)
    if own is None and tree.body:
        yield 1, "stands in no row of LAYERS (tests/test_house_rules.py): give it one"
    for line, name in uses(tree):
        package, _, target = name.partition(".")
        if package != "slmclient" or own is None:
            continue
        its = row(target)
        if its is None and "." not in target:
            yield line, f"uses {name}, of the package root: name the module itself"
        elif its is not None and its < own:
            yield line, f"uses {name}, of a higher layer"
        elif its == LAYERS.index(DRIVERS) and target.split(".")[:2] != module.split(".")[:2]:
            yield line, f"uses {name}: only the registry's string may lead there"


def homes(path: str, source: str) -> Offences:
    """What has one home is used nowhere else."""
    for line, name in uses(code(source)):
        for thing, home in HOMES.items():
            if f"{name}.".startswith(f"{thing}.") and not path.startswith(home):
                yield line, f"uses {name}; its home is {' or '.join(home) or 'nowhere'}"


def provider_names(path: str, source: str) -> Offences:
    """A provider's name stands in its own driver, the registry and the catalogue."""
    for node in ast.walk(code(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            at_home = path.startswith((f"drivers/{name}.py", f"drivers/{name}/", "drivers/registry.py", "catalogue"))
            if name in PROVIDERS and not at_home:
                yield node.lineno, f"names the provider {name!r}"


def sizes(path: str, source: str) -> Offences:
    """Files and functions stay short enough to be read at once."""
    if (length := len(source.splitlines())) > LONGEST_FILE:
        yield LONGEST_FILE + 1, f"the file has {length} lines, more than {LONGEST_FILE}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            counted = [node, *([node.body[0]] if ast.get_docstring(node) else [])]
            whole, *docstring = [(part.end_lineno or 0) - part.lineno + 1 for part in counted]
            if (length := whole - sum(docstring)) > LONGEST_FUNCTION:
                yield node.lineno, f"{node.name} has {length} lines, more than {LONGEST_FUNCTION}"


def leftovers(path: str, source: str) -> Offences:
    """What is not done is absent: no stub, no note to self."""
    for line, text in enumerate(source.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME)\b", text):
            yield line, "holds a note to self"
    for node in ast.walk(code(source)):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError" and path != "drivers/base.py":
            yield node.lineno, "is a stub"


def row(module: str) -> int | None:
    """Return the row of a dotted name, or of the nearest package around it that has one."""
    while module and module not in ROWS:
        module = module.rpartition(".")[0]
    return ROWS.get(module)


class _Runtime(ast.NodeTransformer):
    """Takes out strings that stand alone (docstrings) and the bodies of ``if TYPE_CHECKING``."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
        return self.generic_visit(node)


def code(source: str) -> ast.Module:
    tree: ast.Module = _Runtime().visit(ast.parse(source))
    return tree


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield what is imported, read from an imported module, or printed: line and full dotted name."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    prefix + alias.name if prefix or alias.asname else alias.name.split(".")[0]
                )
                yield node.lineno, prefix + alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            yield node.lineno, f"{known[node.value.id]}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id == "print":
            yield node.lineno, node.id


RULES: tuple[Rule, ...] = (layers, homes, provider_names, sizes, leftovers)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    sources = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    assert "chat.py" in sources
    found = [f"src/slmclient/{path}:{line}: {what}" for path in sources for line, what in rule(path, sources[path])]
    assert not found, "\n".join(["", *found])


BROKEN = [
    (layers, "errors.py", "\nfrom slmclient.client import PhiClient", 2),
    (layers, "drivers/http.py", "from slmclient import settings", 1),
    (layers, "drivers/wire/dialect.py", "import slmclient.drivers.base as base", 1),
    (layers, "phi/__init__.py", "def f():\n    from slmclient.policy.retry import Retry", 2),
    (layers, "drivers/azure.py", "from slmclient.drivers.nvidia import Nvidia", 1),
    (layers, "drivers/registry.py", "from slmclient.drivers import azure", 1),
    (layers, "utils.py", "x = 1", 1),
    (layers, "drivers/shared.py", "from slmclient.client import PhiClient", 1),
    (layers, "testing/suite.py", "from slmclient import PhiClient", 1),
    (homes, "drivers/http.py", "import httpx2._client", 1),
    (homes, "client.py", "import os as o\no.environ['A']", 2),
    (homes, "cli/doctor.py", "from os import getenv", 1),
    (homes, "policy/retry.py", "import time\n\ntime.sleep(1)", 3),
    (homes, "drivers/engine.py", "import asyncio\nasync def f(): await asyncio.sleep(1)", 2),
    (homes, "drivers/wire/chat.py", "from base64 import b64encode as b", 1),
    (homes, "drivers/engine.py", "on_error = print", 1),
    (provider_names, "client.py", "if provider == 'azure': ...", 1),
    (provider_names, "drivers/azure.py", "name = 'azure'\nx = {'ollama:phi4': 1}", 2),
    (sizes, "reply.py", "x = 1\n" * 401, 401),
    (sizes, "reply.py", "\nasync def f():\n    '''One.\n    '''\n" + "    x = 1\n" * 60, 2),
    (leftovers, "reply.py", "x = 1  # TODO: more", 1),
    (leftovers, "reply.py", "def f():\n    raise NotImplementedError", 2),
]


@pytest.mark.parametrize(("rule", "path", "source", "line"), BROKEN)
def test_a_broken_rule_is_found_where_it_is_broken(rule: Rule, path: str, source: str, line: int) -> None:
    assert [found for found, _ in rule(path, source)] == [line]


KEPT = [
    (layers, "client.py", "from slmclient.answer import ask\nfrom slmclient.stream import ReplyStream\nimport json"),
    (layers, "drivers/azure.py", "from slmclient.drivers import http\nfrom slmclient.drivers.azure import shapes"),
    (layers, "drivers/__init__.py", "'''Nothing.'''"),
    (layers, "drivers/http.py", "if TYPE_CHECKING:\n    from slmclient.settings import Settings"),
    (homes, "drivers/lines.py", "import httpx2\nhttpx2.Request"),
    (homes, "cli/__init__.py", "print('a')"),
    (homes, "client.py", "import os, time\nos.environment\ntime.monotonic()\nself.sleep(1)"),
    (provider_names, "drivers/azure.py", "name = 'azure'"),
    (provider_names, "drivers/registry.py", "ROWS = {'azure': 'slmclient.drivers.azure:AzureDriver'}"),
    (provider_names, "client.py", "'''azure'''\nclass A:\n    x: int\n    'ollama'\n    y = 'azure-identity'"),
    (sizes, "reply.py", "def f():\n    '''One.\n    '''\n" + "    x = 1\n" * 59),
    (leftovers, "drivers/base.py", "def f():\n    raise NotImplementedError"),
]


@pytest.mark.parametrize(("rule", "path", "source"), KEPT)
def test_what_is_allowed_is_not_found(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, source)) == []
