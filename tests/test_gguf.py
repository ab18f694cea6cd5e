"""Headers of GGUF files: the real one is read, everything else is refused, quickly and without much memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slmclient.drivers.engine.gguf import GgufHeader, read_header
from slmclient.errors import ConfigurationError

# Value types of the format, as ggml's documentation numbers them
UINT8, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 5, 4, 6, 7, 8, 9, 10
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of tokens
PACKED = {UINT8: "<B", INT32: "<i", UINT32: "<I", FLOAT32: "<f", BOOL: "<?", UINT64: "<Q"}

small = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        item, items = content
        return struct.pack("<IQ", item, len(items)) + b"".join(value(item, each) for each in items)
    return struct.pack(PACKED[kind], content)


def gguf(pairs: Iterable[tuple[str, int, Any]], *, version: int = 3, keys: int | None = None) -> bytes:
    """Return the bytes of a header, written from the format's description."""
    written = [string(name) + struct.pack("<I", kind) + value(kind, content) for name, kind, content in pairs]
    count = len(written) if keys is None else keys
    return b"GGUF" + struct.pack("<IQQ", version, 0, count) + b"".join(written)


TOKENS = ["<unk>", "<s>", "<|user|>", "\n", "hello", "<tool>", "é", "<0x0A>", "x"]
KINDS = [UNKNOWN, CONTROL, CONTROL, CONTROL, NORMAL, USER_DEFINED, NORMAL, BYTE, CONTROL]
PAIRS: list[tuple[str, int, Any]] = [
    ("general.architecture", STRING, "llama"),
    ("general.name", STRING, "Small Modell Ü"),
    ("llama.context_length", UINT32, 8192),
    ("llama.rope.freq_base", FLOAT32, 10000.0),
    ("tokenizer.ggml.add_bos_token", BOOL, False),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, TOKENS)),
    ("tokenizer.ggml.token_type", ARRAY, (INT32, KINDS)),
    ("tokenizer.ggml.scores", ARRAY, (FLOAT32, [0.5] * 9)),  # these two are passed over
    ("tokenizer.ggml.merges", ARRAY, (STRING, ["h e", "l l", "é x"])),
    ("odd.nested", ARRAY, (ARRAY, [(UINT8, [1, 2]), (STRING, ["a"])])),
    ("general.file_type", UINT64, 3),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def read(file: Path, content: bytes) -> GgufHeader:
    file.write_bytes(content)
    return read_header(file)


# --- what is read


def test_the_real_files_header_names_its_control_tokens(weights: Path) -> None:
    header = read_header(weights)
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(header.control_tokens)
    assert all(token.startswith("<") and token.endswith(">") for token in header.control_tokens)
    assert "the" not in header.control_tokens
    assert header.context_length == 8192
    assert header.name is not None
    assert "smollm2" in header.name.lower()


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_is_read(file: Path, version: int) -> None:
    header = read(file, gguf(PAIRS, version=version))
    assert header.name == "Small Modell Ü"
    assert header.context_length == 8192
    # Those of one character are left out: breaking them up in every text would do more harm.
    assert header.control_tokens == ("<unk>", "<s>", "<|user|>")


PROMPTING: list[tuple[str, int, Any]] = [
    ("tokenizer.chat_template", STRING, "{{ messages }}"),
    ("tokenizer.ggml.bos_token_id", UINT32, 1),
    ("tokenizer.ggml.eos_token_id", UINT32, 2),
    ("tokenizer.ggml.eot_token_id", UINT32, 1),
    ("tokenizer.ggml.unknown_token_id", UINT32, 0),
    ("tokenizer.ggml.padding_token_id", UINT32, 99),  # there is no such token
]


def test_what_a_prompt_needs_is_read(file: Path) -> None:
    header = read(file, gguf([*PAIRS, *PROMPTING]))
    assert header.architecture == "llama"
    assert header.template == "{{ messages }}"
    assert header.special == {"bos_token": "<s>", "eos_token": "<|user|>", "unk_token": "<unk>"}
    assert header.end_ids == {1, 2}
    assert header.added_tokens == ("<tool>",)
    assert {"<unk>": 0, "<s>": 1, "<|user|>": 2}.items() <= header.ids.items()


@pytest.mark.parametrize(
    ("pairs", "adds"),
    [
        ([("tokenizer.ggml.model", STRING, "llama")], True),
        ([("tokenizer.ggml.model", STRING, "gpt2")], False),
        ([("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.add_bos_token", BOOL, True)], True),
        ([("tokenizer.ggml.model", STRING, "llama"), ("tokenizer.ggml.add_bos_token", BOOL, False)], False),
        ([], False),
    ],
)
def test_whether_texts_begin_with_a_token_is_read(file: Path, pairs: list[tuple[str, int, Any]], adds: bool) -> None:
    assert read(file, gguf(pairs)).adds_bos is adds


def test_the_order_of_the_keys_does_not_matter(file: Path) -> None:
    assert read(file, gguf(reversed(PAIRS))) == read(file, gguf(PAIRS))


def test_a_header_that_says_little_is_read(file: Path) -> None:
    assert read(file, gguf([])) == GgufHeader(name=None, context_length=None, control_tokens=())
    assert read(file, gguf(PAIRS[:2])).context_length is None
    assert read(file, gguf([PAIRS[5]])).control_tokens == ()


@pytest.mark.parametrize(
    "pair",
    [
        ("general.name", UINT32, 7),
        ("general.name", ARRAY, (STRING, ["a"])),
        ("general.architecture", UINT32, 7),
        ("llama.context_length", STRING, "8192"),
        ("llama.context_length", FLOAT32, 8192.0),
        ("llama.context_length", INT32, -1),
        ("llama.context_length", BOOL, True),
        ("tokenizer.ggml.tokens", UINT32, 7),
        ("tokenizer.ggml.tokens", STRING, "<s><s><s>"),
        ("tokenizer.ggml.tokens", ARRAY, (INT32, [1, 2, 3])),
        ("tokenizer.ggml.tokens", ARRAY, (ARRAY, [(STRING, ["<s>", "</s>"])] * 3)),
        ("tokenizer.ggml.token_type", UINT32, 3),
        ("tokenizer.ggml.token_type", STRING, "333"),
        ("tokenizer.ggml.token_type", ARRAY, (STRING, ["3"] * 3)),
        ("tokenizer.chat_template", ARRAY, (STRING, ["a"])),
        ("tokenizer.ggml.eos_token_id", INT32, -1),
        ("tokenizer.ggml.eos_token_id", BOOL, True),
        ("tokenizer.ggml.eos_token_id", STRING, "2"),
        ("tokenizer.ggml.bos_token_id", UINT64, 2**63),
    ],
)
def test_a_value_of_another_type_than_it_should_be_is_refused_or_ignored(
    file: Path, pair: tuple[str, int, Any]
) -> None:
    pairs = [pair if name == pair[0] else (name, kind, content) for name, kind, content in [*PAIRS, *PROMPTING]]
    try:
        header = read(file, gguf(pairs))
    except ConfigurationError:
        return
    assert_well_typed(header)


def assert_well_typed(header: GgufHeader) -> None:
    assert header.name is None or isinstance(header.name, str)
    assert header.context_length is None or (type(header.context_length) is int and header.context_length > 0)
    assert all(isinstance(token, str) for token in (*header.control_tokens, *header.added_tokens))
    assert header.template is None or isinstance(header.template, str)
    assert header.architecture is None or isinstance(header.architecture, str)
    assert all(isinstance(text, str) for text in header.special.values())
    assert all(type(id) is int and id >= 0 for id in header.end_ids)
    assert isinstance(header.adds_bos, bool)


# --- what is refused


@pytest.mark.parametrize(
    "content", [b"", b"GGU", b"PK\x03\x04" + bytes(100), b"ggml" + bytes(100), b"<html>Not found</html>"]
)
def test_another_format_is_refused(file: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"is no GGUF file") as caught:
        read(file, content)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no model file .*nowhere\.gguf"):
        read_header(tmp_path / "nowhere.gguf")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        read_header(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("a\0b.gguf", "a" * 5000):
        with pytest.raises(ConfigurationError):
            read_header(tmp_path / name)


@pytest.mark.parametrize("version", [0, 1, 4, 2**31, 3 << 24])
def test_another_version_is_refused(file: Path, version: int) -> None:
    with pytest.raises(ConfigurationError, match="broken or cut off"):
        read(file, gguf(PAIRS, version=version))


def deep(levels: int) -> bytes:
    """A header whose one value is an array in an array in an array."""
    nested = struct.pack("<IQ", ARRAY, 1) * levels + struct.pack("<IQ", UINT8, 0)
    return gguf([], keys=1) + string("deep") + struct.pack("<I", ARRAY) + nested


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gguf(PAIRS, keys=len(PAIRS) + 1), id="fewer keys than it says"),
        pytest.param(gguf([], keys=2**63), id="very many keys"),
        pytest.param(gguf([], keys=1) + struct.pack("<Q", 2**62), id="a key of exabytes"),
        pytest.param(gguf([], keys=1) + struct.pack("<Q", 10**7), id="a key longer than the file"),
        pytest.param(gguf([], keys=1) + string("a") + struct.pack("<I", 99), id="an unknown type"),
        pytest.param(
            gguf([], keys=1) + string("a") + struct.pack("<IIQ", ARRAY, UINT64, 2**61), id="an array of exabytes"
        ),
        pytest.param(
            gguf([], keys=1) + string("a") + struct.pack("<IIQ", ARRAY, UINT64, 4 * 10**6),
            id="an array longer than the file",
        ),
        pytest.param(
            gguf([], keys=1) + string("a") + struct.pack("<IIQ", ARRAY, STRING, 4 * 10**6), id="strings without end"
        ),
        pytest.param(
            gguf([], keys=1) + string("a") + struct.pack("<IIQ", ARRAY, 99, 1), id="an array of nothing known"
        ),
        pytest.param(deep(5_000), id="arrays in arrays"),
        pytest.param(deep(200_000), id="arrays in arrays, without end"),
    ],
)
def test_a_lying_header_is_refused_without_much_memory(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match="broken or cut off"):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 50 * 1024 * 1024
    finally:
        tracemalloc.stop()


@small
@given(st.integers(0, len(gguf(PAIRS)) - 1))
def test_a_header_that_is_cut_off_anywhere_is_refused(file: Path, length: int) -> None:
    with pytest.raises(ConfigurationError):
        read(file, gguf(PAIRS)[:length])


@settings(small, max_examples=400)
@given(st.lists(st.tuples(st.integers(4, len(gguf(PAIRS)) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(4, 1)])
def test_a_header_with_flipped_bytes_is_refused_or_read_and_never_another_error(
    file: Path, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(gguf(PAIRS))
    for place, byte in flips:
        content[place] = byte
    try:
        header = read(file, bytes(content))
    except ConfigurationError:
        return
    assert_well_typed(header)


@settings(small, max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_the_magic_are_refused_or_read(file: Path, content: bytes, keyed: bool) -> None:
    head = gguf([], keys=1) + string("k") if keyed else b"GGUF"
    try:
        assert_well_typed(read(file, head + content))
    except ConfigurationError:
        pass


@settings(small, max_examples=30)
@given(st.data())
def test_the_real_header_cut_or_flipped_is_refused_or_read(weights: Path, file: Path, data: st.DataObject) -> None:
    with weights.open("rb") as stream:
        content = bytearray(stream.read(64 * 1024))  # without the end of its list of tokens
    with pytest.raises(ConfigurationError):
        read(file, bytes(content[: data.draw(st.integers(0, len(content)))]))
    with weights.open("rb") as stream:
        whole = bytearray(stream.read(3 * 1024 * 1024))  # more than the header
    place = data.draw(st.integers(4, 4096) | st.integers(4, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        assert_well_typed(read(file, bytes(whole)))
    except ConfigurationError:
        pass
