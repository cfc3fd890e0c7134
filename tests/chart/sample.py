"""A small sound RayService written by hand: tests of the checks break it in one place each."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from tests.chart.render import Object

_RAYSERVICE = """
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: sample
  namespace: glm
spec:
  serveConfigV2: |
    applications: [{name: glm, import_path: serve_app.app:build}]
  upgradeStrategy:
    type: NewClusterWithIncrementalUpgrade
    clusterUpgradeOptions: {gatewayClassName: istio, stepSizePercent: 20, intervalSeconds: 30}
  rayClusterConfig:
    rayVersion: 2.60.0
    enableInTreeAutoscaling: true
    authOptions: {mode: token}
    autoscalerOptions: {version: v2}
    gcsFaultToleranceOptions:
      redisAddress: redis:6379
      redisPassword: {valueFrom: {secretKeyRef: {name: redis, key: password}}}
    headGroupSpec:
      rayStartParams: {num-cpus: "0"}
      template:
        metadata: {labels: {app.kubernetes.io/part-of: sample}}
        spec:
          containers:
            - name: ray-head
              image: glm:1
              ports: [{name: serve, containerPort: 8000}, {name: gcs-server, containerPort: 6379}]
              resources: {requests: {cpu: "1", memory: 1Gi}, limits: {memory: 1Gi}}
    workerGroupSpecs:
      - groupName: gpu
        minReplicas: 0
        replicas: 1
        maxReplicas: 2
        idleTimeoutSeconds: 60
        priority: 1
        rayStartParams: {resources: '''{"engine": 1000}'''}
        template:
          spec:
            containers:
              - name: ray-worker
                image: glm:1
                ports: [{name: serve, containerPort: 8000}]
                resources:
                  requests: {cpu: 500m, memory: 1Gi}
                  limits: {memory: 1Gi, nvidia.com/gpu: 1}
"""


def rayservice() -> Object:
    """The sample, a new one for each caller."""
    made: Object = yaml.safe_load(_RAYSERVICE)
    return made


def changed(resource: Object, path: str, value: Any) -> Object:
    """A copy with one value put at a path such as `spec/rayClusterConfig/workerGroupSpecs/0/priority`."""
    made = copy.deepcopy(resource)
    *way, last = (int(step) if step.isdecimal() else step for step in path.split("/"))
    place: Any = made
    for step in way:
        place = place.setdefault(step, {}) if isinstance(step, str) else place[step]
    place[last] = value
    return made


def without(resource: Object, path: str) -> Object:
    """A copy without what stands at a path."""
    made = copy.deepcopy(resource)
    *way, last = (int(step) if step.isdecimal() else step for step in path.split("/"))
    place: Any = made
    for step in way:
        place = place[step]
    del place[last]
    return made
