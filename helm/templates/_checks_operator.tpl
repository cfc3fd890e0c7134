{{/* Checks of what KubeRay's operator refuses: it only writes an event then, and no pod starts. */}}

{{- define "glm.checkOperator" -}}
{{- $timeout := include "glm.initializingTimeout" . -}}
{{- if $timeout -}}
{{- if not (and (regexMatch "^([0-9]+|([0-9]+([.][0-9]+)?(h|m|s))+)$" $timeout) (regexMatch "[1-9]" $timeout)) -}}
{{- fail (printf "upgrade.initializingTimeout is %q. Write hours, minutes and seconds, more than 0, for example 1h or 90m; a day is 24h." $timeout) -}}
{{- end -}}
{{- end -}}
{{- $elsewhere := dict "ray.io/initializing-timeout" "upgrade.initializingTimeout" "ray.io/ft-enabled" "faultTolerance.enabled" "ray.io/external-storage-namespace" "faultTolerance.enabled" -}}
{{- range $path, $annotations := dict "annotations" .Values.annotations "commonAnnotations" .Values.commonAnnotations -}}
{{- range $name, $_ := $annotations -}}
{{- if hasKey $elsewhere $name -}}
{{- fail (printf "%s sets %s, which the chart sets itself. Remove it, and set %s." $path $name (get $elsewhere $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- if and $group.suspend $.Values.autoscaler.enabled -}}
{{- fail (printf "workers.%s.suspend is true, which KubeRay refuses with the autoscaler. Set autoscaler.enabled to false, or disable the group with workers.%s.enabled." $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Text, also of a number of seconds. */}}
{{- define "glm.initializingTimeout" -}}
{{- with .Values.upgrade.initializingTimeout -}}{{- ternary . (int64 . | toString) (kindIs "string" .) -}}{{- end -}}
{{- end -}}

{{/* Variables of a Ray container that KubeRay sets itself, or refuses; arguments: path (of the pod's values), env. */}}
{{- define "glm.checkOperatorsVariables" -}}
{{- $path := .path -}}
{{- $managed := list "RAY_CLUSTER_NAME" "RAY_CLUSTER_NAMESPACE" "RAY_CLOUD_INSTANCE_ID" "RAY_NODE_TYPE_NAME" "RAY_IP" "FQ_RAY_IP" "KUBERAY_GEN_RAY_START_CMD" "RAY_USAGE_STATS_EXTRA_TAGS" -}}
{{- range .env -}}
{{- if and (hasKey . "value") .valueFrom -}}
{{- fail (printf "extraEnv or %s.extraEnv gives %s a value and a valueFrom. Remove one." $path .name) -}}
{{- end -}}
{{- if has .name $managed -}}
{{- fail (printf "extraEnv or %s.extraEnv sets %s, which KubeRay sets in every Ray container. Remove it." $path .name) -}}
{{- end -}}
{{- if has .name (list "RAY_REDIS_ADDRESS" "REDIS_USERNAME" "REDIS_PASSWORD") -}}
{{- fail (printf "extraEnv or %s.extraEnv sets %s, with which KubeRay refuses the RayService. Set faultTolerance.enabled, externalAddress, username and passwordSecret instead." $path .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
