{{/* The alerts of alerts/*.yaml with the limits, labels and durations of monitoring.prometheusRule. */}}

{{/* Prometheus' rule groups. YAML. */}}
{{- define "glm.alertGroups" -}}
{{- $values := .Values.monitoring.prometheusRule -}}
{{- /* Values of ${...} in alerts/*.yaml: the limits by their names, the release's labels, maxima of replicas. */ -}}
{{- $words := pick $values "runbook" -}}
{{- range $name := list "errorFraction" "firstTokenSeconds" "waitingRequests" "vramFraction" "startMinutes" -}}
{{- $_ := set $words $name (include "glm.number" (get $values $name)) -}}
{{- end -}}
{{- $_ := set $words "release" (printf "namespace=%q, release=%q" .Release.Namespace .Release.Name) -}}
{{- range $word, $stage := dict "maxEngineReplicas" "engine" "maxPreprocessReplicas" "preprocess" "maxIngressReplicas" "ingress" -}}
{{- $_ := set $words $word (get $.Values.stages $stage).replicas.max -}}
{{- end -}}
{{- $_ := set $words "namespace" .Release.Namespace -}}
{{- $_ := set $words "redis" (include "glm.redisName" .) -}}
{{- $claims := list (include "glm.modelClaim" .) .Values.audit.existingClaim (printf "data-%s-0" (include "glm.redisName" .)) -}}
{{- $_ := set $words "claims" (compact $claims | join "|") -}}
{{- $_ := set $words "fullname" (include "glm.fullname" .) -}}
{{- $groups := list -}}
{{- $known := list -}}
{{- range $path, $_ := .Files.Glob "alerts/*.yaml" -}}
{{- /* Replaced in JSON, so that no value can change the structure. */ -}}
{{- $text := $.Files.Get $path | fromYaml | toJson -}}
{{- range $name, $value := $words -}}
{{- $text = replace (printf "${%s}" $name) (toString $value | toJson | trimPrefix "\"" | trimSuffix "\"") $text -}}
{{- end -}}
{{- range $group := (fromJson $text).groups -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- $known = append $known $rule.alert -}}
{{- $change := default dict (get (default dict $values.alerts) $rule.alert) -}}
{{- $applies := or $.Values.autoscaler.enabled (ne $rule.alert "GlmAutoscalerDown") -}}
{{- if and $applies (ne (toString $change.enabled) "false") -}}
{{- $_ := set $rule "labels" (mergeOverwrite dict $rule.labels (default dict $values.alertLabels) (default dict $change.labels)) -}}
{{- with $change.for -}}{{- $_ := set $rule "for" . -}}{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- with $rules -}}{{- $groups = append $groups (dict "name" $group.name "rules" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $values.alerts -}}
{{- if not (has $name $known) -}}
{{- fail (printf "monitoring.prometheusRule.alerts.%s is not an alert of the chart. There are: %s." $name (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}
