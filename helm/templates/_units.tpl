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

{{/* 500m -> 500, "2" -> 2000, 0.5 -> 500; rounded up. */}}
{{- define "glm.millicpus" -}}
{{- $quantity := toString . -}}
{{- if hasSuffix "m" $quantity -}}
{{- trimSuffix "m" $quantity | float64 | ceil | int -}}
{{- else -}}
{{- mulf (float64 (include "glm.amount" $quantity)) 1000 | ceil | int -}}
{{- end -}}
{{- end -}}

{{/* 2Gi -> 2147483648. */}}
{{- define "glm.bytes" -}}
{{- include "glm.amount" . | float64 | floor | int64 -}}
{{- end -}}

{{/* A quantity of Kubernetes as a number: 2Gi -> 2147483648, 500m -> 0.5, 1e3 -> 1000. */}}
{{- define "glm.amount" -}}
{{- $quantity := toString . -}}
{{- $units := dict "n" 0.000000001 "u" 0.000001 "m" 0.001 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $unit := regexFind "[A-Za-z]*$" $quantity -}}
{{- mulf (float64 (trimSuffix $unit $quantity)) (float64 (ternary (get $units $unit) 1 (hasKey $units $unit))) -}}
{{- end -}}

{{/* A number, also one in quotes: helm's --set makes strings of fractions. 0.5, "0.5", 500m -> 0.5; 2 -> 2. */}}
{{- define "glm.number" -}}
{{- if hasSuffix "m" (toString .) -}}{{- include "glm.amount" . | float64 | toJson -}}{{- else -}}{{- toJson (float64 .) -}}{{- end -}}
{{- end -}}
