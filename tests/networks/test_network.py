"""A network's name and arguments as one value: equal by content, to the type, and never changed."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.networks.network import MOST_DEPTH, MOST_TEXT, Network, check_plain

NAMES = st.from_regex("[a-z_]{1,8}", fullmatch=True)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8).filter(str.isprintable),
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=4).filter(
    lambda value: depth(value) <= MOST_DEPTH
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)


def depth(value: Any) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def exactly(value: Any) -> Any:
    """What tells 1, 1.0 and true apart, and 0.0 and −0.0."""
    return json.dumps(value, sort_keys=True)


@given(arguments=ARGUMENTS)
def test_arguments_come_back_as_they_were_given(arguments: dict[str, Any]) -> None:
    network = Network.of("resnet-20", **arguments)
    assert exactly(network.arguments) == exactly(arguments)
    backwards = dict(reversed(arguments.items()))
    assert network == Network.of("resnet-20", **backwards)
    assert hash(network) == hash(Network.of("resnet-20", **backwards))
    content = json.loads(json.dumps(network.content()))
    assert Network.of(content["model"], **content.get("arguments", {})) == network
    assert ("arguments" in content) == bool(arguments)
    assert pickle.loads(pickle.dumps(network)) == network  # noqa: S301


@given(one=ARGUMENTS, other=ARGUMENTS)
def test_networks_are_equal_only_if_all_arguments_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = Network.of("vit", **one) == Network.of("vit", **other)
    assert same == (exactly(one) == exactly(other))
    assert Network.of("vit", **one) != Network.of("vgg-16-bn", **one)


def test_a_number_is_not_another_of_the_same_value() -> None:
    values = [1, 1.0, True, "1", [1], None]
    assert len({Network.of("own:net", size=value) for value in values}) == len(values)


def test_nobody_changes_the_arguments_of_another() -> None:
    sizes = [1, 2]
    network = Network.of("own:net", sizes=sizes)
    sizes.append(3)
    network.arguments["sizes"].append(4)
    network.arguments["more"] = 1
    assert network.arguments == {"sizes": [1, 2]}


def test_a_name_alone_and_a_network_are_networks() -> None:
    network = Network.of("vit")
    assert network == Network("vit")
    assert Network.of(network) is network
    assert Network.of(Network.of("vit", width=8), depth=2) == Network.of("vit", width=8, depth=2)
    assert str(network) == "vit"
    assert str(Network.of("vit", width=8)) == 'vit with arguments {"width": 8}'


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), 2**53, 10**5000, b"a", (1,), {}, {"a": 1}, object(), 1j),
        *("a\x1b[31m", "a\nb", "x" * (MOST_TEXT + 1), [0] * (MOST_TEXT + 1), [None, [{}]]),
        *([[[[[1]]]]], [float("nan")], [10**5000], "\ud800"),
    ],
    ids=lambda _: "",
)
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^size = .*must be a finite number") as raised:
        check_plain({"size": value})
    assert len(str(raised.value)) < 200
    assert str(raised.value).isprintable()
    with pytest.raises(ValueError, match=r"^size = "):
        Network.of("own:net", size=value)


def test_a_list_in_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"^size = "):
        check_plain({"size": endless})


@pytest.mark.parametrize("name", ["", "a b", "a-b", "1a", 3, None, "a" * 101, "a\x1b"])
def test_what_no_argument_is_called_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="its name cannot be that of an argument") as raised:
        check_plain({name: 1})
    assert str(raised.value).isprintable()


def test_all_arguments_together_are_no_book() -> None:
    with pytest.raises(ValueError, match=f"^argument_0 = 'xx.*at most {MOST_TEXT} characters"):
        check_plain({f"argument_{i}": "x" * 100 for i in range(30)})
