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

{{/* How many replicas of a stage one pod of a group holds by its CPUs and GPUs; arguments: stage, group, most. */}}
{{- define "glm.replicasOfPod" -}}
{{- $held := .most | int -}}
{{- $cpus := include "glm.millicpus" .stage.cpus | int -}}
{{- if $cpus -}}
{{- $held = div (mul 1000 (include "glm.groupCpus" .group | int)) $cpus -}}
{{- end -}}
{{- $gpus := float64 (default 0 .stage.gpus) -}}
{{- if gt $gpus 0.0 -}}
{{- $held = min $held (divf (float64 .group.gpus) $gpus | floor | int) -}}
{{- end -}}
{{- $held -}}
{{- end -}}

{{/*
How many replicas of a stage one pod may hold (Serve's max_replicas_per_node): no more than the maximum of replicas needs
on the maximum of pods. Without it all replicas move into the pod that stays when another is evicted, and none comes back
to the pod that replaces it, which then never gets ready. Empty where there is nothing to spread: one replica, or one pod.
Arguments: root, stage (its name).
*/}}
{{- define "glm.replicasPerPod" -}}
{{- $stage := get .root.Values.stages .stage -}}
{{- $most := $stage.replicas.max | int -}}
{{- $groups := include "glm.groups" .root | fromJson -}}
{{- $names := include "glm.groupsOf" (dict "root" .root "stages" (list .stage)) | fromJsonArray -}}
{{- $pods := 0 -}}
{{- range $names -}}{{- $pods = add $pods (int (get $groups .).replicas.min) -}}{{- end -}}
{{- if and (ge (int $stage.replicas.min) 2) (ge (int $pods) 2) -}}
{{- $limit := 0 -}}
{{- range $candidate := untilStep 1 (add $most 1 | int) 1 -}}
{{- if not $limit -}}
{{- $held := 0 -}}
{{- range $names -}}
{{- $group := get $groups . -}}
{{- $ofPod := include "glm.replicasOfPod" (dict "stage" $stage "group" $group "most" $most) | int -}}
{{- $held = add $held (mul (min $candidate $ofPod) (include "glm.groupPods" (dict "root" $.root "group" $group) | int)) -}}
{{- end -}}
{{- if ge (int $held) $most -}}{{- $limit = $candidate -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- default "" $limit -}}
{{- end -}}
{{- end -}}

{{/*
The least number of replicas of a stage that can't all be in one pod while another has none; empty where it is reached,
or where replicas are not spread. Arguments: root, stage (its name).
*/}}
{{- define "glm.replicasToSpread" -}}
{{- $perPod := include "glm.replicasPerPod" . | int -}}
{{- if $perPod -}}
{{- $pods := 0 -}}
{{- $groups := include "glm.groups" .root | fromJson -}}
{{- range include "glm.groupsOf" (dict "root" .root "stages" (list .stage)) | fromJsonArray -}}
{{- $pods = add $pods (int (get $groups .).replicas.min) -}}
{{- end -}}
{{- $least := add (mul $perPod (sub $pods 1)) 1 -}}
{{- if lt (int (get .root.Values.stages .stage).replicas.min) (int $least) -}}{{- $least -}}{{- end -}}
{{- end -}}
{{- end -}}
