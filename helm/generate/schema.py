"""values.schema.json: `settings` from the service's settings model, all other values from the definitions here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_app.settings import Settings
from serve_app.settings_section import Section

Schema = dict[str, Any]
STAGES = ("ingress", "preprocess", "engine")

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}  # Kubernetes objects, which the API server validates
PERCENT: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
FRACTION: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
SECONDS: Schema = {"type": "number", "minimum": 0}
LABEL: Schema = {"type": "string", "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"}
STRINGS: Schema = {"type": "object", "additionalProperties": TEXT}
MEMORY: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)$"}
CPUS: Schema = {"type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?m?$", "minimum": 0}


def files() -> dict[Path, str]:
    return {Path("values.schema.json"): json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"}


def schema() -> Schema:
    """The schema of values.yaml as JSON Schema draft 7, which helm 3 and 4 check before they render."""
    settings, definitions = settings_schema()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the glm-vision-serve chart; written by `python helm/generate`",
        **only(
            nameOverride=LABEL,
            fullnameOverride=TEXT,
            image=image(),
            settings=settings,
            auth=only(
                anonymous=one_of("allow", "refuse"),
                keysSecret=key_of_secret(),
                jwtSecret=key_of_secret(),
                limitsRedisSecret=key_of_secret(),
                testKeySecret=key_of_secret(),
            ),
            cache=only(secret=only(name=TEXT, passwordKey=TEXT, signingKey=TEXT)),
            audit=only(existingClaim=TEXT, mountPath=TEXT),
            stages=only(ingress=stage(), preprocess=stage(), engine=engine()),
            head=only(**pod()),
            workers=workers(),
            modelStorage=model_storage(),
            autoscaler=only(
                enabled=FLAG, upscalingMode=one_of("Default", "Conservative", "Aggressive"), resources=FREE
            ),
            upgrade=upgrade(),
            faultTolerance=only(
                enabled=FLAG,
                externalAddress={"type": "string", "pattern": "^$|^([a-z]+://)?[^:/]+:[0-9]+$"},
                passwordSecret=key_of_secret(),
            ),
            redis=only(image=TEXT, persistence=only(enabled=FLAG, size=MEMORY, storageClassName=TEXT), resources=FREE),
            rayAuth=one_of("token", "disabled"),
            publish=only(apiReference=FLAG),
            ingress=ingress(),
            gateway=only(enabled=FLAG, parentRefs=objects(), hostnames=texts(), annotations=STRINGS),
            networkPolicy=only(
                enabled=FLAG,
                clients=objects(),
                monitors=objects(),
                operatorNamespace={"type": "string", "minLength": 1},
                dns=objects(least=1),
                egress=objects(),
                apiServer=objects(),
            ),
            podDisruptionBudget=only(enabled=FLAG),
            serviceAccount=only(create=FLAG, name=TEXT, annotations=STRINGS),
            monitoring=monitoring(),
            test=only(question={"type": "string", "minLength": 1}, expect=TEXT, timeoutSeconds=integer(1)),
            podSecurityContext=FREE,
            extraEnv=objects(),
            **{"global": FREE},  # helm's, if this is a subchart
        ),
        "definitions": definitions,
    }


def settings_schema() -> tuple[Schema, Schema]:
    """The service's settings and the definitions that they refer to."""
    tree = Settings.model_json_schema(ref_template="#/definitions/{model}")
    definitions = {name: without_titles(section) for name, section in tree["$defs"].items()}
    del definitions["HttpSettings"]["properties"]["host"]  # a pod listens on its own address
    for field in Settings.model_fields.values():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        properties = definitions[section.__name__]["properties"]
        for old, name in section.renamed.items():
            properties[old] = {**properties[name], "description": f"Old name of {name}; refused from version 0.2 on."}
    return only(**{name: {"$ref": field["$ref"]} for name, field in tree["properties"].items()}), definitions


def without_titles(section: Schema) -> Schema:
    for field in section["properties"].values():
        field.pop("title", None)
    return {name: value for name, value in section.items() if name != "title"}


# -- the chart's own values ------------------------------------------------------------------------


def image() -> Schema:
    return only(
        repository={"type": "string", "minLength": 1},
        tag={"type": "string", "pattern": "^[\\w.-]{0,128}$"},
        digest={"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"},
        pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        pullSecrets=texts(),
    )


def stage() -> Schema:
    """A stage with at least one replica."""
    return only(
        replicas=count(least=1),
        cpus={"type": "number", "minimum": 0},
        targetOngoingRequests={"type": "number", "exclusiveMinimum": 0},
        upscaleDelaySeconds=SECONDS,
        downscaleDelaySeconds=SECONDS,
    )


def engine() -> Schema:
    return only(
        replicas=count(least=0),
        cpus={"type": "number", "minimum": 0},
        gpus={"type": "number", "minimum": 0},
        targetTokensInFlight=integer(1),
        targetKvUse={"type": "number", "exclusiveMinimum": 0},
        upscaleDelaySeconds=SECONDS,
        downscaleDelaySeconds=SECONDS,
        downscaleToZeroDelaySeconds=SECONDS,
    )


def pod() -> dict[str, Schema]:
    """The values that head and worker groups share."""
    return {
        # Ray takes a pod's memory from its limit.
        "resources": {
            **only(requests=some(cpu=CPUS), limits={**some(memory=MEMORY), "required": ["memory"]}),
            "required": ["requests", "limits"],
        },
        "sharedMemory": MEMORY,
        "temporaryStorage": MEMORY,
        "nodeSelector": STRINGS,
        "tolerations": objects(),
        "affinity": FREE,
        "priorityClassName": TEXT,
        "podAnnotations": STRINGS,
        "podLabels": STRINGS,
    }


def workers() -> Schema:
    group = only(
        enabled=FLAG,
        stages={"type": "array", "items": one_of(*STAGES), "minItems": 1, "uniqueItems": True},
        replicas=count(least=0),
        idleTimeoutSeconds=integer(0),
        gpus=integer(0),
        gpuResource={"type": "string", "minLength": 1},
        topologySpreadConstraints=objects(),
        runtimeClassName=TEXT,
        **pod(),
    )
    on = {**group, "required": ["stages", "replicas", "resources"]}
    off = {"properties": {"enabled": {"const": False}}, "required": ["enabled"]}
    name = "^[a-z]([-a-z0-9]{0,14}[a-z0-9])?$"
    return {
        "type": "object",
        "propertyNames": {"pattern": name},
        "additionalProperties": {"if": off, "then": group, "else": on},
    }


def model_storage() -> Schema:
    return only(
        mountPath={"type": "string", "pattern": "^/.+"},
        existingClaim=TEXT,
        create=FLAG,
        size=MEMORY,
        storageClassName=TEXT,
        accessModes={**texts(), "minItems": 1},
        emptyDirSizeLimit=MEMORY,
        hubTokenSecret=key_of_secret(),
        fetch=only(enabled=FLAG, image=TEXT, command=texts(), args=texts(), envFromSecret=TEXT, resources=FREE),
    )


def upgrade() -> Schema:
    return only(
        strategy=one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
        incremental=only(
            gatewayClassName=TEXT, stepSizePercent=PERCENT, intervalSeconds=integer(1), maxSurgePercent=PERCENT
        ),
        initializingTimeout={"type": "string", "pattern": "^([1-9][0-9]*|([0-9]+(h|m|s))+)?$"},
    )


def ingress() -> Schema:
    return only(
        enabled=FLAG,
        className=TEXT,
        annotations=STRINGS,
        host=TEXT,
        tlsSecret=TEXT,
        nginx=only(enabled=FLAG, requestsPerSecond=integer(0), burstMultiplier=integer(1), connections=integer(0)),
    )


def monitoring() -> Schema:
    return only(
        podMonitor=only(enabled=FLAG, labels=STRINGS, interval={"type": "string", "pattern": "^[0-9]+(s|m)$"}),
        prometheusRule=only(
            enabled=FLAG,
            labels=STRINGS,
            errorFraction=FRACTION,
            firstTokenSeconds={"type": "number", "exclusiveMinimum": 0},
            waitingRequests=integer(0),
            vramFraction=FRACTION,
            startMinutes=integer(1),
            runbook={"type": "string", "minLength": 1},
        ),
        dashboards=only(enabled=FLAG, labels=STRINGS, annotations=STRINGS),
    )


# -- parts of the schema ----------------------------------------------------------------------------


def only(**properties: Schema) -> Schema:
    """An object with these properties and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def some(**properties: Schema) -> Schema:
    """An object with these properties and any others."""
    return {"type": "object", "properties": properties}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def integer(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


def count(least: int) -> Schema:
    """Minimum and maximum of a number of replicas or pods."""
    return {**only(min=integer(least), max=integer(1)), "required": ["min", "max"]}


def objects(least: int = 0) -> Schema:
    return {"type": "array", "items": FREE, "minItems": least}


def texts() -> Schema:
    return {"type": "array", "items": TEXT}


def key_of_secret() -> Schema:
    return only(name=TEXT, key={"type": "string", "minLength": 1})
