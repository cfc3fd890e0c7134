{{/* Checks of what KubeRay's operator refuses: it only writes an event then, and no pod starts. */}}

{{- define "glm.checkOperator" -}}
{{- $timeout := include "glm.initializingTimeout" . -}}
{{- $timeouts := dict "upgrade.initializingTimeout" $timeout -}}
{{- range $path, $annotations := dict "annotations" .Values.annotations "commonAnnotations" .Values.commonAnnotations -}}
{{- range $name, $value := $annotations -}}
{{- $same := get (dict "ray.io/initializing-timeout" "upgrade.initializingTimeout" "ray.io/ft-enabled" "faultTolerance.enabled" "ray.io/external-storage-namespace" "faultTolerance.enabled") $name -}}
{{- if and $same $value (ternary $timeout $.Values.faultTolerance.enabled (eq $name "ray.io/initializing-timeout")) -}}
{{- fail (printf "%s sets %s, and %s is set too. Remove one of them." $path $name $same) -}}
{{- end -}}
{{- if eq $name "ray.io/initializing-timeout" -}}{{- $_ := set $timeouts (printf "%s[%s]" $path $name) $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $path, $given := $timeouts -}}
{{- if and $given (not (and (regexMatch "^([0-9]+|([0-9]+([.][0-9]+)?(h|m|s))+)$" $given) (regexMatch "[1-9]" $given))) -}}
{{- fail (printf "%s is %q. Write hours, minutes and seconds, more than 0, for example 1h or 90m; a day is 24h." $path $given) -}}
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

{{/*
Variables of a Ray container that KubeRay sets itself, or refuses, which it does in the head only; arguments: root, path
(of the pod's values), env. Without faultTolerance an address is taken beside the annotation by which older versions have it.
*/}}
{{- define "glm.checkOperatorsVariables" -}}
{{- $path := .path -}}
{{- $isHead := eq $path "head" -}}
{{- $values := .root.Values -}}
{{- $managed := list "RAY_CLUSTER_NAME" "RAY_CLUSTER_NAMESPACE" "RAY_CLOUD_INSTANCE_ID" "RAY_NODE_TYPE_NAME" "RAY_IP" "FQ_RAY_IP" "KUBERAY_GEN_RAY_START_CMD" -}}
{{- if $isHead -}}{{- $managed = append $managed "RAY_USAGE_STATS_EXTRA_TAGS" -}}{{- end -}}
{{- $annotated := list -}}
{{- range list $values.annotations $values.commonAnnotations -}}
{{- $annotated = append $annotated (get (default dict .) "ray.io/ft-enabled" | toString | lower) -}}
{{- end -}}
{{- $refused := list "REDIS_USERNAME" -}}
{{- if or $values.faultTolerance.enabled (not (has "true" $annotated)) -}}{{- $refused = append $refused "RAY_REDIS_ADDRESS" -}}{{- end -}}
{{- range .env -}}
{{- if and .value .valueFrom -}}
{{- fail (printf "extraEnv or %s.extraEnv gives %s a value and a valueFrom. Remove one." $path .name) -}}
{{- end -}}
{{- if has .name $managed -}}
{{- fail (printf "extraEnv or %s.extraEnv sets %s, which KubeRay sets in %s. Remove it." $path .name (ternary "the head" "every Ray container" (eq .name "RAY_USAGE_STATS_EXTRA_TAGS"))) -}}
{{- end -}}
{{- if and $isHead (has .name $refused) -}}
{{- fail (printf "extraEnv or head.extraEnv sets %s, with which KubeRay refuses the RayService. Set faultTolerance.enabled, externalAddress, username and passwordSecret instead, or the variable in the extraEnv of workers." .name) -}}
{{- end -}}
{{- if and $isHead $values.faultTolerance.enabled (eq .name "REDIS_PASSWORD") -}}
{{- fail "extraEnv or head.extraEnv sets REDIS_PASSWORD, and faultTolerance is enabled: KubeRay then sets it in the head from faultTolerance.passwordSecret, and refuses another one. Give your variable another name, or set it in the extraEnv of workers." -}}
{{- end -}}
{{- end -}}
{{- end -}}
