"""PromQL of the boards: every query selects one release, every rate takes Grafana's own interval.

Names come from `serve_app.metrics`, so that a board can't ask for what nobody measures. Quantiles come from buckets:
Ray's `_sum` is approximate.
"""

from __future__ import annotations

from serve_app import errors
from serve_app.errors import ServiceError
from serve_app.ingress.request_log import POLLED
from serve_app.metrics import Metric

SELECTED = 'namespace="$namespace", release="$release", ray_io_cluster=~"$cluster"'
APPLICATION = 'application="glm"'  # in the metrics that Ray Serve itself keeps

ASKED = f'route!~"{"|".join(sorted(POLLED))}"'  # what callers ask, without what is polled every few seconds


_FAILURES = sorted(
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ServiceError) and kind.status >= 500
)
FAILED = f'code=~"{"|".join(_FAILURES)}"'  # errors that are no fault of the caller


def metric(name: Metric | str, *matchers: str, suffix: str = "") -> str:
    """The selector of one metric of ours, or by its full name of one of Ray's or HAProxy's."""
    full = name if isinstance(name, str) else f"ray_{name.name}"
    return f"{full}{suffix}{{{', '.join((SELECTED, *matchers))}}}"


def total(name: Metric | str, *matchers: str, by: str = "") -> str:
    """The sum over all replicas, or over those of one `by`."""
    return f"{_sum(by)}({metric(name, *matchers)})"


def rate(name: Metric | str, *matchers: str, by: str = "") -> str:
    """A counter's growth a second."""
    return f"{_sum(by)}(rate({metric(name, *matchers)}[$__rate_interval]))"


def quantile(share: float, name: Metric | str, *matchers: str, by: str = "") -> str:
    """A histogram's quantile over all replicas."""
    buckets = f"rate({metric(name, *matchers, suffix='_bucket')}[$__rate_interval])"
    return f"histogram_quantile({share:g}, {_sum(', '.join(filter(None, ('le', by))))}({buckets}))"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
