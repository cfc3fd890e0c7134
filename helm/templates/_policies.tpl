{{/* Who reaches the service: published paths, selectors of network policies. */}}

{{/* The paths that Ingress and HTTPRoute publish: path -> whether it is a prefix. JSON. */}}
{{- define "glm.publicPaths" -}}
{{- $paths := dict "/" false "/v1" true "/web" true "/healthz" false -}}
{{- if .Values.publish.apiReference -}}
{{- $_ := merge $paths (dict "/docs" false "/openapi.json" false) -}}
{{- end -}}
{{- if dig "bots" "enabled" false .Values.settings -}}
{{- $_ := set $paths "/bots" true -}}
{{- end -}}
{{- toJson $paths -}}
{{- end -}}

{{/* Name and labels of a policy; arguments: root, its own name. */}}
{{- define "glm.policyMetadata" -}}
{{- include "glm.metadata" (dict "root" (index . 0) "name" (printf "%s-%s" (include "glm.fullname" (index . 0)) (index . 1))) -}}
{{- end -}}

{{/* A selector of this release's pods; arguments: root, then the components (none: all pods). */}}
{{- define "glm.pods" -}}
matchLabels:
  {{- include "glm.selectorLabels" (index . 0) | nindent 2 }}
{{- with rest . }}
matchExpressions:
  - { key: app.kubernetes.io/component, operator: In, values: {{ toJson . }} }
{{- end }}
{{- end -}}
