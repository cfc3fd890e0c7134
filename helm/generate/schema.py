"""values.schema.json: `settings` from the service's settings model, all other values from the definitions here."""

from __future__ import annotations

import json
from pathlib import Path

from schema_parts import (
    AMOUNT,
    CPUS,
    FLAG,
    FRACTION,
    FREE,
    LABEL,
    LABELS,
    NUMBER,
    PERCENT,
    POSITIVE,
    SECONDS,
    STORAGE_CLASS,
    STRINGS,
    TEXT,
    Schema,
    count,
    egress_rules,
    integer,
    key_of_secret,
    objects,
    one_of,
    only,
    peers,
    ports,
    some,
    texts,
    with_null,
)
from schema_pods import additions, environment, image_name, placement, ray_pod

from serve_app.settings import Settings
from serve_app.settings_section import Section

MONITORING_APIS = ("monitoring.coreos.com", "azmonitoring.coreos.com", "monitoring.googleapis.com")
ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
STAGES = ("ingress", "preprocess", "engine")


def files() -> dict[Path, str]:
    return {Path("values.schema.json"): json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"}


def schema() -> Schema:
    """The schema of values.yaml as JSON Schema draft 7, which helm 3 and 4 check before they render."""
    settings, definitions = settings_schema()
    values = only(
        nameOverride=LABEL,
        fullnameOverride=TEXT,
        image=image(),
        settings=settings,
        auth=only(
            anonymous=one_of("allow", "refuse"),
            keysSecret=key_of_secret(),
            jwtSecret=key_of_secret(),
            limitsRedisSecret=key_of_secret(),
            widgetSecret=key_of_secret(),
            testKeySecret=key_of_secret(),
        ),
        cache=only(secret=only(name=TEXT, passwordKey=TEXT, signingKey=TEXT)),
        audit=only(existingClaim=TEXT, mountPath={"type": "string", "pattern": "^/.+"}),
        stages=only(ingress=stage(), preprocess=stage(), engine=engine()),
        head=only(**ray_pod()),
        workers=workers(),
        modelStorage=model_storage(),
        autoscaler=only(enabled=FLAG, upscalingMode=one_of("Default", "Conservative", "Aggressive"), resources=FREE),
        upgrade=upgrade(),
        faultTolerance=only(
            enabled=FLAG,
            externalAddress=TEXT,
            username=TEXT,
            caSecret=key_of_secret(),
            passwordSecret=key_of_secret(),
        ),
        redis=only(
            image=TEXT,
            persistence=only(enabled=FLAG, size=AMOUNT, storageClassName=STORAGE_CLASS),
            resources=FREE,
            **placement(),
        ),
        uninstall=only(resources=FREE),
        rayAuth=one_of("token", "disabled"),
        publish=only(apiReference=FLAG),
        ingress=ingress(),
        gateway=only(
            enabled=FLAG,
            parentRefs={"type": "array", "items": {**some(name=TEXT), "required": ["name"]}},
            hostnames=texts(),
            annotations=STRINGS,
            timeouts=FLAG,
            filters=objects(),
        ),
        networkPolicy=only(
            enabled=FLAG,
            clients=peers(),
            monitors=peers(),
            operatorNamespace={"type": "string", "minLength": 1},
            operator=peers(),
            dns=peers(least=1),
            dnsPorts=ports(),
            egress=egress_rules(),
            extraEgress=egress_rules(),
            apiServer=peers(),
            apiServerPorts=ports(),
        ),
        podDisruptionBudget=only(enabled=FLAG),
        serviceAccount=only(create=FLAG, name=TEXT, annotations=STRINGS),
        monitoring=monitoring(),
        test=only(
            question={"type": "string", "minLength": 1},
            expect=TEXT,
            timeoutSeconds=integer(1),
            resources=FREE,
            **placement(),
        ),
        podSecurityContext=some(
            runAsNonRoot=FLAG, runAsUser=integer(0), runAsGroup=integer(0), fsGroup=integer(0), seccompProfile=FREE
        ),
        labels=LABELS,
        annotations=STRINGS,
        commonLabels=LABELS,
        commonAnnotations=STRINGS,
        **additions(),
        rayTokenSecret=TEXT,
        suspend=FLAG,
        serveService=only(
            type=one_of("ClusterIP", "NodePort", "LoadBalancer"), labels=LABELS, annotations=STRINGS, spec=FREE
        ),
        extraObjects={"type": "array", "items": {"type": ["object", "string"]}},
        overrides=only(all=FREE, head=FREE, workers={"type": "object", "additionalProperties": FREE}),
        # Of a parent chart: the switch that its `condition` names, and the values for all its charts.
        enabled=FLAG,
        **{"global": some(imageRegistry=TEXT, imagePullSecrets=pull_secrets())},
    )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the glm-vision-serve chart; written by `python helm/generate`",
        **with_null(values),
        "type": "object",
        "definitions": definitions,
    }


def settings_schema() -> tuple[Schema, Schema]:
    """The service's settings and the definitions that they refer to."""
    tree = Settings.model_json_schema(ref_template="#/definitions/{model}")
    definitions = {name: without_titles(section) for name, section in tree["$defs"].items()}
    del definitions["HttpSettings"]["properties"]["host"]  # a pod listens on its own address
    del definitions["ReplicaSettings"], tree["properties"]["replicas"]  # `stages` has them
    for name, field in Settings.model_fields.items():
        if name not in tree["properties"]:
            continue
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        properties = definitions[section.__name__]["properties"]
        for old, name in section.renamed.items():
            properties[old] = {**properties[name], "description": f"Old name of {name}; refused from version 0.2 on."}
        definitions[section.__name__]["type"] = ["object", "null"]
    return only(**{name: {"$ref": field["$ref"]} for name, field in tree["properties"].items()}), definitions


def without_titles(section: Schema) -> Schema:
    for field in section["properties"].values():
        field.pop("title", None)
    return {name: value for name, value in section.items() if name != "title"}


# -- the chart's own values ------------------------------------------------------------------------


def image() -> Schema:
    return only(**image_name(), pullPolicy=one_of("Always", "IfNotPresent", "Never"), pullSecrets=pull_secrets())


def pull_secrets() -> Schema:
    """Names of Secrets, or objects with the name as Kubernetes has them."""
    return {"type": "array", "items": {"anyOf": [TEXT, {**only(name=TEXT), "required": ["name"]}]}}


def stage() -> Schema:
    """A stage with at least one replica."""
    return only(
        replicas=count(least=1),
        cpus=CPUS,
        targetOngoingRequests=POSITIVE,
        upscaleDelaySeconds=SECONDS,
        downscaleDelaySeconds=SECONDS,
    )


def engine() -> Schema:
    return only(
        replicas=count(least=0),
        cpus=CPUS,
        gpus=NUMBER,
        targetTokensInFlight=integer(1),
        targetKvUse=POSITIVE,
        upscaleDelaySeconds=SECONDS,
        downscaleDelaySeconds=SECONDS,
        downscaleToZeroDelaySeconds=SECONDS,
    )


def workers() -> Schema:
    group = only(
        enabled=FLAG,
        stages={"type": "array", "items": one_of(*STAGES), "minItems": 1, "uniqueItems": True},
        replicas=count(least=0),
        idleTimeoutSeconds=integer(0),
        gpus=integer(0),
        gpuResource=TEXT,
        priority=integer(0),
        suspend=FLAG,
        **ray_pod(),
    )
    on = with_null({**group, "required": ["stages", "replicas", "resources"]})
    off = {"properties": {"enabled": {"const": False}}, "required": ["enabled"]}
    name = "^[a-z]([-a-z0-9]{0,14}[a-z0-9])?$"
    return {
        "type": "object",
        "propertyNames": {"pattern": name},
        "additionalProperties": {"if": off, "then": with_null(group), "else": on},
    }


def model_storage() -> Schema:
    return only(
        mountPath={"type": "string", "pattern": "^/.+"},
        existingClaim=TEXT,
        create=FLAG,
        size=AMOUNT,
        storageClassName=STORAGE_CLASS,
        accessModes={"type": "array", "items": one_of(*ACCESS_MODES), "minItems": 1},
        volume=FREE,
        subPath=TEXT,
        readOnly=FLAG,
        emptyDirSizeLimit=AMOUNT,
        hubTokenSecret=key_of_secret(),
        fetch=only(
            enabled=FLAG,
            image=TEXT,
            command=texts(),
            args=texts(),
            envFromSecret=TEXT,
            env=environment(),
            resources=FREE,
        ),
    )


def upgrade() -> Schema:
    return only(
        strategy=one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
        incremental=only(
            gatewayClassName=TEXT,
            stepSizePercent={**PERCENT, "minimum": 1},
            intervalSeconds=integer(1),
            maxSurgePercent=PERCENT,
        ),
        initializingTimeout={"type": ["string", "integer"]},  # _checks_operator.tpl says what is wrong with one
        check=only(enabled=FLAG, resources=FREE),
    )


def ingress() -> Schema:
    return only(
        enabled=FLAG,
        className=TEXT,
        annotations=STRINGS,
        host=TEXT,
        tlsSecret=TEXT,
        extraHosts=texts(),
        extraTls=objects(),
        nginx=only(enabled=FLAG, requestsPerSecond=integer(0), burstMultiplier=integer(1), connections=integer(0)),
    )


def monitoring() -> Schema:
    alert = only(enabled=FLAG, labels=STRINGS, **{"for": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}})
    return only(
        api=one_of(*MONITORING_APIS),
        scrapeAnnotations=FLAG,
        podMonitor=only(enabled=FLAG, labels=LABELS, interval={"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}),
        prometheusRule=only(
            enabled=FLAG,
            labels=LABELS,
            errorFraction=FRACTION,
            firstTokenSeconds=POSITIVE,
            waitingRequests=integer(0),
            vramFraction=FRACTION,
            startMinutes=integer(1),
            runbook={"type": "string", "minLength": 1},
            alertLabels=STRINGS,
            alerts={"type": "object", "additionalProperties": alert},
        ),
        dashboards=only(enabled=FLAG, labels=LABELS, annotations=STRINGS),
    )
