{{/* Where Ray's control plane keeps its state. */}}

{{/* True where this release runs a Redis. */}}
{{- define "glm.redisBundled" -}}
{{- if and .Values.faultTolerance.enabled (not .Values.faultTolerance.externalAddress) -}}true{{- end -}}
{{- end -}}

{{/* At most 52 characters: a StatefulSet's pods carry its name and a hash in a label. */}}
{{- define "glm.redisName" -}}
{{- printf "%s-redis" (include "glm.fullname" . | trunc 46 | trimSuffix "-") -}}
{{- end -}}

{{- define "glm.redisAddress" -}}
{{- default (printf "%s:6379" (include "glm.redisName" .)) .Values.faultTolerance.externalAddress -}}
{{- end -}}

{{- define "glm.redisPort" -}}
{{- include "glm.redisAddress" . | splitList ":" | last | int -}}
{{- end -}}

{{/* The Secret of the password; empty: the external Redis asks for none. */}}
{{- define "glm.redisSecret" -}}
{{- if .Values.faultTolerance.passwordSecret.name -}}
{{- .Values.faultTolerance.passwordSecret.name -}}
{{- else if include "glm.redisBundled" . -}}
{{- include "glm.redisName" . -}}
{{- end -}}
{{- end -}}
