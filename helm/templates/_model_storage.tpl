{{/* The volume of the weights, and the claims' storage classes. */}}

{{/* The claim of the weights; empty: another kind of volume. */}}
{{- define "glm.modelClaim" -}}
{{- if .Values.modelStorage.existingClaim -}}
{{- .Values.modelStorage.existingClaim -}}
{{- else if .Values.modelStorage.create -}}
{{- printf "%s-models" (include "glm.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The source of the volume: a given one, a claim, or an emptyDir. */}}
{{- define "glm.modelVolume" -}}
{{- $storage := .Values.modelStorage -}}
{{- if $storage.volume -}}
{{- toYaml $storage.volume -}}
{{- else if include "glm.modelClaim" . -}}
persistentVolumeClaim:
  claimName: {{ include "glm.modelClaim" . | quote }}
  {{- if $storage.readOnly }}
  readOnly: true
  {{- end }}
{{- else -}}
emptyDir: { sizeLimit: {{ $storage.emptyDirSizeLimit }} }
{{- end -}}
{{- end -}}

{{/* Not empty if nothing can be written to the volume: by modelStorage.readOnly, or by its source (an image always). */}}
{{- define "glm.modelIsReadOnly" -}}
{{- $readOnly := .Values.modelStorage.readOnly -}}
{{- range $kind, $source := .Values.modelStorage.volume -}}
{{- if or (eq $kind "image") (and (kindIs "map" $source) (eq (toString (get (default dict $source) "readOnly")) "true")) -}}{{- $readOnly = true -}}{{- end -}}
{{- end -}}
{{- if $readOnly -}}true{{- end -}}
{{- end -}}

{{/* JSON. */}}
{{- define "glm.modelMount" -}}
{{- $mount := dict "name" "models" "mountPath" .Values.modelStorage.mountPath -}}
{{- with .Values.modelStorage.subPath -}}{{- $_ := set $mount "subPath" . -}}{{- end -}}
{{- if .Values.modelStorage.readOnly -}}{{- $_ := set $mount "readOnly" true -}}{{- end -}}
{{- toJson $mount -}}
{{- end -}}

{{/*
HF_HOME: a folder of the volume, or of /tmp if the volume can't be written; but where a model of the hub is read offline it
can only be in the volume. Arguments: root, group.
*/}}
{{- define "glm.hubCache" -}}
{{- $path := default "" (default dict .root.Values.settings.model).path -}}
{{- $isThere := and $path (not (hasPrefix "/" $path)) (include "glm.isOffline" .) -}}
{{- ternary "/tmp" .root.Values.modelStorage.mountPath (and (not (empty (include "glm.modelIsReadOnly" .root))) (not $isThere)) -}}/huggingface
{{- end -}}

{{/* Not empty if the hub is not asked in the pods of a group (HF_HUB_OFFLINE): the model is there. Arguments: root, group. */}}
{{- define "glm.isOffline" -}}
{{- $offline := "" -}}
{{- range concat (default list .root.Values.extraEnv) (default list .group.extraEnv) -}}
{{- if eq .name "HF_HUB_OFFLINE" -}}{{- $offline = ternary "true" "" (has (upper (default "" .value)) (list "1" "ON" "YES" "TRUE")) -}}{{- end -}}
{{- end -}}
{{- $offline -}}
{{- end -}}

{{/* Where compiled GPU kernels are kept: as the hub's cache, so that a new pod of the same image and GPU compiles nothing. */}}
{{- define "glm.kernelCache" -}}
{{- ternary "/tmp" .Values.modelStorage.mountPath (not (empty (include "glm.modelIsReadOnly" .))) -}}/triton
{{- end -}}

{{/* The storage class of a claim; the argument is the value: null is the cluster's default, "" and "-" are no class. */}}
{{- define "glm.storageClass" -}}
{{- if kindIs "string" . -}}
storageClassName: {{ ternary "" . (eq . "-") | quote }}
{{- end -}}
{{- end -}}

{{/* Refuses what Kubernetes can't change in the chart's claim that exists, also of an earlier release, which kept it. */}}
{{- define "glm.checkModelClaim" -}}
{{- $storage := .Values.modelStorage -}}
{{- $running := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (include "glm.modelClaim" .) -}}
{{- if $running -}}
{{- $change := "" -}}
{{- $modes := join ", " $running.spec.accessModes -}}
{{- if ne (join ", " $storage.accessModes) $modes -}}
{{- $change = printf "accessModes is %s, and the claim has %s" (join ", " $storage.accessModes) $modes -}}
{{- end -}}
{{- $class := default "" $running.spec.storageClassName -}}
{{- if and (kindIs "string" $storage.storageClassName) (ne (trimPrefix "-" $storage.storageClassName) $class) -}}
{{- $change = printf "storageClassName is %q, and the claim has %q" $storage.storageClassName $class -}}
{{- end -}}
{{- $size := $running.spec.resources.requests.storage -}}
{{- if lt (include "glm.bytes" $storage.size | int64) (include "glm.bytes" $size | int64) -}}
{{- $change = printf "size is %v, and the claim has %v" $storage.size $size -}}
{{- end -}}
{{- if $change -}}
{{- fail (printf "modelStorage.%s, which Kubernetes can't change. Write the claim's, or delete it with the model in it: kubectl -n %s delete pvc %s" $change .Release.Namespace (include "glm.modelClaim" .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
