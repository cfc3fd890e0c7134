{{/* The Redis that stores the state of Ray's control plane. */}}

{{/* True if this release runs the bundled Redis. */}}
{{- define "glm.redisBundled" -}}
{{- if and .Values.faultTolerance.enabled (not .Values.faultTolerance.externalAddress) -}}true{{- end -}}
{{- end -}}

{{/* At most 52 characters: a label of a StatefulSet's pods contains its name and a hash. */}}
{{- define "glm.redisName" -}}
{{- printf "%s-redis" (include "glm.fullname" . | trunc 46 | trimSuffix "-") -}}
{{- end -}}

{{- define "glm.redisAddress" -}}
{{- default (printf "%s:6379" (include "glm.redisName" .)) .Values.faultTolerance.externalAddress -}}
{{- end -}}

{{- define "glm.redisPort" -}}
{{- include "glm.redisAddress" . | splitList ":" | last | int -}}
{{- end -}}

{{/* The Secret with the password; empty: the external Redis has none. */}}
{{- define "glm.redisSecret" -}}
{{- if .Values.faultTolerance.passwordSecret.name -}}
{{- .Values.faultTolerance.passwordSecret.name -}}
{{- else if include "glm.redisBundled" . -}}
{{- include "glm.redisName" . -}}
{{- end -}}
{{- end -}}

{{/* The file with the certificate authority of an external Redis, in the head; empty: the system's authorities. */}}
{{- define "glm.redisCaFile" -}}
{{- $faultTolerance := .Values.faultTolerance -}}
{{- if and $faultTolerance.enabled $faultTolerance.caSecret.name -}}
{{- printf "/etc/glm-serve/redis-ca/%s" $faultTolerance.caSecret.key -}}
{{- end -}}
{{- end -}}

{{/* Refuses an upgrade that changes the volume of a running Redis: Kubernetes changes no StatefulSet's volumes. */}}
{{- define "glm.checkRedisVolume" -}}
{{- $name := include "glm.redisName" . -}}
{{- $running := lookup "apps/v1" "StatefulSet" .Release.Namespace $name -}}
{{- if $running -}}
{{- $wanted := .Values.redis.persistence -}}
{{- $claims := default list $running.spec.volumeClaimTemplates -}}
{{- $change := "" -}}
{{- if ne (not $claims) (not $wanted.enabled) -}}
{{- $change = printf "enabled is %t" $wanted.enabled -}}
{{- else if $claims -}}
{{- $spec := (first $claims).spec -}}
{{- if ne (include "glm.quantity" $spec.resources.requests.storage) (include "glm.quantity" $wanted.size) -}}
{{- $change = printf "size is %v, and was %v" $wanted.size $spec.resources.requests.storage -}}
{{- end -}}
{{- if and (kindIs "string" $wanted.storageClassName) (ne (trimPrefix "-" $wanted.storageClassName) (default "" $spec.storageClassName)) -}}
{{- $change = printf "storageClassName is %q, and was %q" $wanted.storageClassName (default "" $spec.storageClassName) -}}
{{- end -}}
{{- end -}}
{{- if $change -}}
{{- fail (printf "redis.persistence.%s: Kubernetes refuses that for a Redis that runs. Leave it as it was, or remove Redis before the upgrade, which restarts all workers once: kubectl -n %s delete statefulset %s" $change .Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
