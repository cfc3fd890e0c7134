"""The model of NetworkPolicies says what the API reference says, one sentence a test."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chart.network import Pod, World, is_in, selects, types_of
from tests.chart.render import Object

pytestmark = pytest.mark.chart

NAMESPACES = {"glm": {"team": "vision"}, "other": {"team": "other"}}
WORKER = Pod("worker", "10.0.0.1", "glm", {"app": "worker"}, {"http": 8000})
CLIENT = Pod("client", "10.0.0.2", "glm", {"app": "client"})
OTHER_POD = Pod("other pod", "10.0.1.1", "other", {"app": "client"})
OUTSIDE = Pod("outside", "203.0.113.7")
TO_ALL: Object = {"podSelector": {}}


def policy(**spec: Any) -> Object:
    return {"kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "glm"}, "spec": {**TO_ALL, **spec}}


def world(*policies: Object, blocks_cover_pods: bool = True) -> World:
    return World(NAMESPACES, policies, blocks_cover_pods)


def test_a_pod_that_no_policy_selects_is_open():
    elsewhere = policy(policyTypes=["Ingress", "Egress"], podSelector={"matchLabels": {"app": "nobody"}})
    assert world(elsewhere).passes(OTHER_POD, WORKER, 8000)
    assert world().passes(WORKER, OUTSIDE, 443)


def test_a_policy_without_rules_denies_in_its_direction_only():
    closed = world(policy(policyTypes=["Ingress"]))
    assert not closed.passes(CLIENT, WORKER, 8000)
    assert closed.passes(WORKER, OUTSIDE, 443)
    assert not world(policy(policyTypes=["Egress"])).passes(WORKER, OUTSIDE, 443)


def test_a_policy_is_about_its_own_namespace():
    assert world(policy(policyTypes=["Ingress"])).passes(CLIENT, OTHER_POD, 80)


def test_default_policy_types_are_ingress_and_egress_where_there_are_egress_rules():
    assert types_of(policy()) == {"Ingress"}
    assert types_of(policy(ingress=[])) == {"Ingress"}
    assert types_of(policy(egress=[{}])) == {"Ingress", "Egress"}
    assert types_of(policy(policyTypes=["Egress"], ingress=[{}])) == {"Egress"}


def test_both_sides_have_to_agree():
    lets_in = policy(policyTypes=["Ingress"], ingress=[{}])
    lets_none_out = policy(policyTypes=["Egress"])
    assert world(lets_in).passes(CLIENT, WORKER, 8000)
    assert not world(lets_in, lets_none_out).passes(CLIENT, WORKER, 8000)


def test_policies_add_up():
    one = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    other = policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}]}])
    assert not world(one).passes(OTHER_POD, WORKER, 8000)
    assert world(one, other).passes(OTHER_POD, WORKER, 8000)


def test_an_empty_rule_lets_everything_in():
    assert world(policy(ingress=[{}])).passes(OUTSIDE, WORKER, 1)
    assert world(policy(ingress=[{"from": [], "ports": []}])).passes(OUTSIDE, WORKER, 1)


def test_a_pod_selector_alone_is_about_pods_of_the_same_namespace():
    clients = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    assert world(clients).passes(CLIENT, WORKER, 8000)
    assert not world(clients).passes(OTHER_POD, WORKER, 8000)


def test_two_selectors_in_one_peer_have_to_hold_both():
    peer = {"namespaceSelector": {"matchLabels": {"team": "other"}}, "podSelector": {"matchLabels": {"app": "client"}}}
    both = world(policy(ingress=[{"from": [peer]}]))
    assert both.passes(OTHER_POD, WORKER, 8000)
    assert not both.passes(CLIENT, WORKER, 8000)
    assert not both.passes(Pod("x", "10.0.1.2", "other"), WORKER, 8000)


def test_an_empty_namespace_selector_is_every_namespace_and_nothing_outside():
    every_pod = world(policy(ingress=[{"from": [{"namespaceSelector": {}}]}]))
    assert every_pod.passes(OTHER_POD, WORKER, 8000)
    assert not every_pod.passes(OUTSIDE, WORKER, 8000)


def test_a_port_is_tcp_by_default_and_every_number_where_it_has_none():
    one = world(policy(ingress=[{"ports": [{"port": 8000}]}]))
    assert one.passes(CLIENT, WORKER, 8000)
    assert not one.passes(CLIENT, WORKER, 8000, "UDP")
    assert not one.passes(CLIENT, WORKER, 8001)
    assert world(policy(ingress=[{"ports": [{"protocol": "UDP"}]}])).passes(CLIENT, WORKER, 53, "UDP")


def test_a_named_port_is_the_targets_own():
    named = world(policy(ingress=[{"ports": [{"port": "http"}]}]))
    assert named.passes(CLIENT, WORKER, 8000)
    assert not named.passes(CLIENT, CLIENT, 8000)


@given(st.integers(1, 65535), st.integers(1, 65535), st.integers(0, 1000))
def test_a_range_of_ports_includes_both_ends(port: int, first: int, length: int):
    last = min(first + length, 65535)
    ranged = world(policy(ingress=[{"ports": [{"port": first, "endPort": last}]}]))
    assert ranged.passes(CLIENT, WORKER, port) == (first <= port <= last)


addresses = st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number)))


@given(addresses, st.integers(0, 32))
def test_a_block_is_what_its_network_holds(address: str, length: int):
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    assert is_in({"cidr": str(network)}, address)
    assert not is_in({"cidr": str(network), "except": [str(network)]}, address)
    assert not is_in({"cidr": "::/0"}, address)


@given(addresses)
def test_exceptions_win_over_their_block(address: str):
    private = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.168.0.0/16"]}
    assert is_in(private, address) == (not address.startswith(("10.", "192.168.")))


def test_whether_a_block_covers_pods_is_the_plugins_choice():
    anywhere = policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])
    assert world(anywhere).passes(WORKER, OTHER_POD, 80)
    assert not world(anywhere, blocks_cover_pods=False).passes(WORKER, OTHER_POD, 80)
    assert world(anywhere, blocks_cover_pods=False).passes(WORKER, OUTSIDE, 80)


keys = st.sampled_from("abc")
labels = st.dictionaries(keys, keys, max_size=3)
values = st.lists(keys, min_size=1, max_size=3)


@given(labels, keys, values)
def test_each_operator_is_the_opposite_of_another(labels: dict[str, str], key: str, values: list[str]):
    def holds(operator: str, values: list[str]) -> bool:
        return selects({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}, labels)

    assert holds("In", values) != holds("NotIn", values)
    assert holds("Exists", []) != holds("DoesNotExist", [])
    assert holds("In", values) <= holds("Exists", [])


@given(labels, labels)
def test_match_labels_is_the_same_as_in_of_one_value(wanted: dict[str, str], labels: dict[str, str]):
    expressions = [{"key": key, "operator": "In", "values": [value]} for key, value in wanted.items()]
    by_labels = selects({"matchLabels": wanted}, labels)
    assert by_labels == selects({"matchExpressions": expressions}, labels) == (wanted.items() <= labels.items())


def test_an_unknown_operator_is_refused():
    with pytest.raises(ValueError, match="no such operator: Gt"):
        selects({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}, {})


@given(st.lists(st.sampled_from([8000, 6379, 80]), max_size=3), st.sampled_from([8000, 6379, 80]))
def test_one_more_policy_only_closes_a_pod_that_was_open(ports: list[int], port: int):
    policies = [policy(ingress=[{"ports": [{"port": each}]}]) for each in ports]
    before = world(*policies).passes(CLIENT, WORKER, port)
    after = world(*policies, policy(ingress=[{"ports": [{"port": 9}]}])).passes(CLIENT, WORKER, port)
    assert after == (before and bool(policies))
