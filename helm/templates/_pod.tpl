{{/* Parts shared by the pods of head, workers, Redis and test. */}}

{{- define "glm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{/* Fields of a pod's spec; arguments: root, place (values with nodeSelector and the like). */}}
{{- define "glm.podPlace" -}}
{{- with include "glm.pullSecrets" .root | fromJsonArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" "schedulerName" "hostAliases" "dnsPolicy" "dnsConfig" "hostNetwork" "resourceClaims" }}
{{- with get $.place $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Environment of a Ray container. HAProxy's time-outs follow the service's. */}}
{{- define "glm.rayEnv" -}}
{{- $proxySeconds := add (include "glm.answerSeconds" . | int) 60 | toString -}}
{{- $answers := dict "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S" $proxySeconds "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S" $proxySeconds -}}
{{- range $name, $value := mergeOverwrite (.Files.Get "files/ray-env.json" | fromJson) $answers }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- if eq .Values.rayAuth "disabled" }}
- name: RAY_AUTH_MODE
  value: disabled
{{- end }}
{{- end -}}

{{/* Annotations and labels of a pod; arguments: root, component, place, labels and annotations (more of them). */}}
{{- define "glm.podMetadata" -}}
{{- with merge dict (default dict .annotations) (default dict .place.podAnnotations) (default dict .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
labels:
  {{- include "glm.selectorLabels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with merge dict (default dict .labels) (default dict .place.podLabels) (default dict .root.Values.commonLabels) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The annotations by which a Prometheus without its operator finds the metrics of a Ray pod. YAML. */}}
{{- define "glm.scrapeAnnotations" -}}
{{- if .Values.monitoring.scrapeAnnotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ include "glm.metricsPort" . | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{/* The writable volumes of a Ray container; the argument is the head's values or a worker group. */}}
{{- define "glm.rayVolumes" -}}
- name: tmp # Ray's session, its logs, downloads
  emptyDir: { sizeLimit: {{ .temporaryStorage }} }
- name: shared-memory
  emptyDir: { medium: Memory, sizeLimit: {{ .sharedMemory }} }
{{- end -}}

{{- define "glm.rayMounts" -}}
- { name: tmp, mountPath: /tmp }
- { name: shared-memory, mountPath: /dev/shm }
{{- end -}}

{{/* The size of Ray's object store: nine tenths of /dev/shm; the argument is the size of /dev/shm. */}}
{{- define "glm.objectStoreBytes" -}}
{{- mulf (float64 (include "glm.bytes" .)) 0.9 | floor | int64 -}}
{{- end -}}
