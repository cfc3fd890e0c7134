{{/* The enabled worker groups with their defaults. */}}

{{/* Name -> group, as JSON. */}}
{{- define "glm.groups" -}}
{{- $groups := dict -}}
{{- range $name, $group := .Values.workers -}}
{{- if and $group (ne (toString $group.enabled) "false") -}}
{{- $defaults := dict "gpus" 0 "gpuResource" "nvidia.com/gpu" "idleTimeoutSeconds" 60 "sharedMemory" "2Gi" "temporaryStorage" "10Gi" -}}
{{- $_ := set $groups $name (mergeOverwrite $defaults (deepCopy $group)) -}}
{{- end -}}
{{- end -}}
{{- toJson $groups -}}
{{- end -}}

{{/* The names of the groups that run one of `stages`, as JSON; arguments: root, stages. */}}
{{- define "glm.groupsOf" -}}
{{- $names := list -}}
{{- $stages := .stages -}}
{{- range $name, $group := include "glm.groups" .root | fromJson -}}
{{- $runs := false -}}
{{- range $stages -}}{{- if has . $group.stages -}}{{- $runs = true -}}{{- end -}}{{- end -}}
{{- if $runs -}}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* Ray's CPUs of one pod, as KubeRay and Ray's autoscaler compute them from its resources (rounded up). */}}
{{- define "glm.groupCpus" -}}
{{- $limits := default dict .resources.limits -}}
{{- $requests := default dict .resources.requests -}}
{{- $cpu := default (get $requests "cpu") (get $limits "cpu") -}}
{{- divf (float64 (include "glm.millicpus" $cpu)) 1000 | ceil | int -}}
{{- end -}}

{{/* The maximum number of pods of a group; arguments: root, group. */}}
{{- define "glm.groupPods" -}}
{{- ternary .group.replicas.max .group.replicas.min .root.Values.autoscaler.enabled | int -}}
{{- end -}}
