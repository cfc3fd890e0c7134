{{/*
A value that is null, also a section of which every line is a comment, has its default; lists and Kubernetes objects are
empty; a switch that is on is refused, because people who write null mean off. Helm removes null from the values, or leaves
it where the default is no value. Every template begins with this.
*/}}

{{/* Changes .Values in place, which all templates share; only the first call does. */}}
{{- define "glm.complete" -}}
{{- if not .Values.isComplete -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- include "glm.completeSection" (dict "values" .Values "defaults" $defaults.values "removable" $defaults.removable "place" "") -}}
{{- include "glm.removeNulls" .Values.global -}}
{{- range $_, $group := .Values.workers -}}
{{- include "glm.removeNulls" $group -}}
{{- include "glm.removeNulls" (default dict $group).image -}}
{{- end -}}
{{- include "glm.removeNulls" .Values.modelStorage.volume -}}
{{- $parts := list .Values.autoscaler .Values.redis .Values.test .Values.upgrade.check .Values.uninstall .Values.modelStorage.fetch .Values.head -}}
{{- range concat $parts (values (default dict .Values.workers)) -}}
{{- range $amounts := pick (default dict (default dict .).resources) "requests" "limits" -}}{{- include "glm.removeNulls" $amounts -}}{{- end -}}
{{- end -}}
{{- $_ := set .Values "settings" (default dict .Values.settings) -}}
{{- include "glm.removeNulls" .Values.settings -}}
{{- $_ := set .Values "isComplete" true -}}
{{- end -}}
{{- end -}}

{{/* Arguments: values (a section), defaults (of the section), removable (paths that stay empty), place (of the section). */}}
{{- define "glm.completeSection" -}}
{{- $values := .values -}}
{{- $removable := .removable -}}
{{- $place := .place -}}
{{- range $name, $default := .defaults -}}
{{- $path := print $place $name -}}
{{- if kindIs "invalid" (index $values $name) -}}
{{- if and (kindIs "bool" $default) $default -}}
{{- fail (printf "%s is null. Write true or false." $path) -}}
{{- else if has $path $removable -}}
{{- $_ := set $values $name (ternary dict list (kindIs "map" $default)) -}}
{{- else -}}
{{- $_ := set $values $name (deepCopy (dict "copy" $default)).copy -}}
{{- end -}}
{{- else if and (kindIs "map" $default) (not (has $path $removable)) -}}
{{- include "glm.completeSection" (dict "values" (get $values $name) "defaults" $default "removable" $removable "place" (print $path ".")) -}}
{{- end -}}
{{- end -}}
{{- include "glm.removeNulls" $values -}}
{{- end -}}

{{/* Removes the values of a section that are null, in place; the argument may be no section. */}}
{{- define "glm.removeNulls" -}}
{{- if kindIs "map" . -}}
{{- $section := . -}}
{{- range $name, $value := $section -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $section $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
