{{/* Names, labels and images, the same in every object. */}}

{{- define "glm.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/* At most 47 characters: KubeRay derives longer names from it (_checks.tpl refuses more). */}}
{{- define "glm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "glm.name" . -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Labels that all pods of this release have and no others. Not app.kubernetes.io/name: KubeRay 1.7 sets that to
"kuberay", and the head service that it creates for a RayService selects it.
*/}}
{{- define "glm.selectorLabels" -}}
app.kubernetes.io/part-of: {{ include "glm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "glm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ include "glm.name" . }}
{{ include "glm.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The image of a pod; arguments: root, gpus (of the pod). */}}
{{- define "glm.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- $variant := ternary "gpu" "cpu" (gt (int .gpus) 0) -}}
{{- printf "%s:%s" $image.repository (default (printf "%s-%s" .root.Chart.AppVersion $variant) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "glm.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "glm.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* KubeRay's service for the workers; with incremental upgrades there is one for each cluster instead. */}}
{{- define "glm.serveService" -}}
{{- printf "%s-serve-svc" (include "glm.fullname" .) -}}
{{- end -}}

{{/* The service that `helm test` calls. */}}
{{- define "glm.testService" -}}
{{- if eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade" -}}
{{- printf "%s-test" (include "glm.fullname" .) -}}
{{- else -}}
{{- include "glm.serveService" . -}}
{{- end -}}
{{- end -}}

{{- define "glm.modelClaim" -}}
{{- if .Values.modelStorage.existingClaim -}}
{{- .Values.modelStorage.existingClaim -}}
{{- else if .Values.modelStorage.create -}}
{{- printf "%s-models" (include "glm.fullname" .) -}}
{{- end -}}
{{- end -}}
