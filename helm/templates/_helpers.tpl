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
app.kubernetes.io/part-of: {{ include "glm.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "glm.labels" -}}
helm.sh/chart: {{ include "glm.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version) | quote }}
app.kubernetes.io/name: {{ include "glm.name" . | quote }}
{{ include "glm.selectorLabels" . }}
app.kubernetes.io/version: {{ include "glm.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* A version as the value of a label, which can't contain "+": Flux appends "+" and the commit to a chart's version. */}}
{{- define "glm.labelValue" -}}
{{- regexReplaceAll "[^A-Za-z0-9_.-]" . "_" | trunc 63 | regexFind "^.*[A-Za-z0-9]" -}}
{{- end -}}

{{/*
Name, labels and annotations of an object; arguments: root, name, labels and annotations (those of this object only).
The chart's labels take precedence over commonLabels; _checks.tpl refuses values that set them.
*/}}
{{- define "glm.metadata" -}}
name: {{ .name | quote }}
labels:
  {{- merge (include "glm.labels" .root | fromYaml) (default dict .labels) (default dict .root.Values.commonLabels) | toYaml | nindent 2 }}
{{- with merge dict (default dict .annotations) (default dict .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The service's image in a pod; arguments: root, gpus (of the pod), image (values of the pod that differ). */}}
{{- define "glm.image" -}}
{{- $own := default dict .image -}}
{{- $image := merge dict $own .root.Values.image -}}
{{- if and $own.tag (not $own.digest) -}}
{{- /* The digest for all pods would take precedence over it. */ -}}
{{- $_ := set $image "digest" "" -}}
{{- end -}}
{{- $repository := include "glm.inRegistry" (list .root $image.repository) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- $variant := ternary "gpu" "cpu" (gt (int .gpus) 0) -}}
{{- $version := regexReplaceAll "[^A-Za-z0-9_.-]" .root.Chart.AppVersion "_" -}}
{{- printf "%s:%s" $repository (default (printf "%s-%s" $version $variant) $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* An image's name in global.imageRegistry, if that is set, instead of its own registry; arguments: root, name. */}}
{{- define "glm.inRegistry" -}}
{{- $registry := (default dict (index . 0).Values.global).imageRegistry -}}
{{- $name := index . 1 -}}
{{- if $registry -}}
{{- $first := splitList "/" $name | first -}}
{{- if and (contains "/" $name) (regexMatch "[.:]|^localhost$" $first) -}}
{{- $name = trimPrefix (print $first "/") $name -}}
{{- end -}}
{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The Secrets for private registries, as names or as Kubernetes writes them ({name: x}). JSON. */}}
{{- define "glm.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (default list .Values.image.pullSecrets) (default list (default dict .Values.global).imagePullSecrets) -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- uniq $secrets | toJson -}}
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
