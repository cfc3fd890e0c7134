"""PromQL of the dashboards: every query selects one release, every rate uses Grafana's interval.

Metric names come from `serve_app.metrics`, so a dashboard can't query a metric that does not exist. Quantiles are
computed from buckets, because Ray's `_sum` is approximate.
"""

from __future__ import annotations

from serve_app import errors
from serve_app.errors import ServiceError
from serve_app.ingress.request_log import POLLED
from serve_app.metrics import Metric

SELECTED = 'namespace="$namespace", release="$release", ray_io_cluster=~"$cluster"'
APPLICATION = 'application="glm"'  # label of Ray Serve's own metrics

# Without the routes that probes poll every few seconds, and the page's files.
CALLER_ROUTES = f'route!~"{"|".join(sorted(POLLED))}|/web/.*"'


_FAILURES = sorted(
    {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ServiceError) and kind.status >= 500
    }
)
FAILED = f'code=~"{"|".join(_FAILURES)}"'  # errors that the caller did not cause


def metric(name: Metric | str, *matchers: str, suffix: str = "") -> str:
    """The selector of one of the service's metrics, or of a metric of Ray or HAProxy by its full name."""
    full = name if isinstance(name, str) else f"ray_{name.name}"
    return f"{full}{suffix}{{{', '.join((SELECTED, *matchers))}}}"


def total(name: Metric | str, *matchers: str, by: str = "") -> str:
    """The sum over all series, or one sum for each value of the labels `by`."""
    return f"{_sum(by)}({metric(name, *matchers)})"


def rate(name: Metric | str, *matchers: str, by: str = "") -> str:
    """The increase of a counter per second."""
    return f"{_sum(by)}(rate({metric(name, *matchers)}[$__rate_interval]))"


def quantile(share: float, name: Metric | str, *matchers: str, by: str = "") -> str:
    """A quantile of a histogram over all series, or for each value of the labels `by`."""
    buckets = f"rate({metric(name, *matchers, suffix='_bucket')}[$__rate_interval])"
    return f"histogram_quantile({share:g}, {_sum(', '.join(filter(None, ('le', by))))}({buckets}))"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
