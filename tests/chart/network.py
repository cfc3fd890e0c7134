"""What NetworkPolicies let pass, over a small world of pods, namespaces and addresses.

Source: the API reference of networking.k8s.io/v1 NetworkPolicy, whose sentences the comments quote in short. Two things
the API leaves to the network plugin: whether an ipBlock covers pods (asked with `blocks_cover_pods`), and traffic of a
pod's own node, which is always let in (probes) and no part of the model.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.chart.render import Object

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    """A pod, or an address outside of the cluster: that has no namespace, and nothing selects it."""

    name: str
    address: str
    namespace: str | None = None
    labels: Labels = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class World:
    """The namespaces' labels, and the policies of all of them."""

    namespaces: Mapping[str, Labels]
    policies: tuple[Object, ...]
    blocks_cover_pods: bool = True

    def passes(self, source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection may be made: the source's side has to let it out, the target's to let it in."""
        leaves = self._is_allowed("Egress", source, target, target, port, protocol)
        return leaves and self._is_allowed("Ingress", target, source, target, port, protocol)

    def _is_allowed(self, kind: str, pod: Pod, peer: Pod, target: Pod, port: int, protocol: str) -> bool:
        """One side. A pod that no policy selects is open; one that is selected gets the union of what they allow."""
        selecting = [each for each in self.policies if kind in types_of(each) and self._selects_pod(each, pod)]
        if not selecting:
            return True
        peers, rules = ("to", "egress") if kind == "Egress" else ("from", "ingress")
        return any(
            self._is_peer(rule.get(peers), peer, policy["metadata"]["namespace"])
            and has_port(rule.get("ports"), target, port, protocol)
            for policy in selecting
            for rule in policy["spec"].get(rules) or ()
        )

    def _selects_pod(self, policy: Object, pod: Pod) -> bool:
        same_namespace = pod.namespace == policy["metadata"]["namespace"]
        return same_namespace and selects(policy["spec"].get("podSelector") or {}, pod.labels)

    def _is_peer(self, peers: Iterable[Object] | None, pod: Pod, namespace: str) -> bool:
        """Any of the peers; no list, or an empty one, means all."""
        listed = list(peers or ())
        return not listed or any(self._matches(peer, pod, namespace) for peer in listed)

    def _matches(self, peer: Object, pod: Pod, namespace: str) -> bool:
        if "ipBlock" in peer:
            return (pod.namespace is None or self.blocks_cover_pods) and is_in(peer["ipBlock"], pod.address)
        if pod.namespace is None:
            return False
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"] or {}, self.namespaces[pod.namespace]):
                return False
        elif pod.namespace != namespace:
            return False  # a podSelector alone is about the policy's own namespace
        return selects(peer.get("podSelector") or {}, pod.labels)


def types_of(policy: Object) -> frozenset[str]:
    """The directions of a policy; unsaid, it is about ingress, and about egress where it has such rules."""
    said = policy["spec"].get("policyTypes")
    if said:
        return frozenset(said)
    return frozenset({"Ingress", "Egress"} if policy["spec"].get("egress") else {"Ingress"})


def selects(selector: Object, labels: Labels) -> bool:
    """A label selector: all of it has to hold; an empty one selects everything."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(expression: Object, labels: Labels) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":  # also where the label is absent
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case operator:
            raise ValueError(f"no such operator: {operator}")


def is_in(block: Object, address: str) -> bool:
    """Whether an address is in an ipBlock and in none of its exceptions; families never mix."""
    ip = ipaddress.ip_address(address)
    inside = [ipaddress.ip_network(each) for each in (block["cidr"], *(block.get("except") or ()))]
    return ip in inside[0] and not any(ip in each for each in inside[1:])


def has_port(ports: Iterable[Object] | None, target: Pod, port: int, protocol: str) -> bool:
    """Any of the ports; no list, or an empty one, is every port of every protocol."""
    listed = list(ports or ())
    return not listed or any(_is_port(each, target, port, protocol) for each in listed)


def _is_port(said: Object, target: Pod, port: int, protocol: str) -> bool:
    if said.get("protocol", "TCP") != protocol:
        return False
    first = said.get("port")
    if isinstance(first, str):
        return target.ports.get(first) == port
    return first is None or first <= port <= said.get("endPort", first)
