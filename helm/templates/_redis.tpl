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
