{{/* Conversions of values: settings with their defaults, quantities as integers. */}}

{{/* The effective settings: the values over the package's defaults. JSON. */}}
{{- define "glm.settings" -}}
{{- mergeOverwrite (.Files.Get "files/settings.json" | fromJson) (deepCopy .Values.settings) | toJson -}}
{{- end -}}

{{- define "glm.port" -}}{{- (include "glm.settings" . | fromJson).http.port | int -}}{{- end -}}

{{- define "glm.metricsPort" -}}{{- (include "glm.settings" . | fromJson).metrics.port | int -}}{{- end -}}

{{/* The longest allowed answer, in seconds, rounded up. */}}
{{- define "glm.answerSeconds" -}}
{{- (include "glm.settings" . | fromJson).http.request_timeout_s | float64 | ceil | int -}}
{{- end -}}

{{/* 500m -> 500, "2" -> 2000, 0.5 -> 500. */}}
{{- define "glm.millicpus" -}}
{{- $quantity := toString . -}}
{{- if hasSuffix "m" $quantity -}}
{{- trimSuffix "m" $quantity | int -}}
{{- else -}}
{{- mulf (float64 $quantity) 1000 | ceil | int -}}
{{- end -}}
{{- end -}}

{{/* 2Gi -> 2147483648. */}}
{{- define "glm.bytes" -}}
{{- $quantity := toString . -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $unit := regexFind "[A-Za-z]*$" $quantity -}}
{{- mulf (float64 (trimSuffix $unit $quantity)) (float64 (ternary (get $units $unit) 1 (hasKey $units $unit))) | floor | int64 -}}
{{- end -}}

{{/* A number, also one in quotes: helm's --set makes strings of fractions. 0.5, "0.5" -> 0.5; 2 -> 2. */}}
{{- define "glm.number" -}}
{{- toJson (float64 .) -}}
{{- end -}}
