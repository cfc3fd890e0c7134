{{/*
Not empty in an upgrade that changes the settings of the model, engine or preprocess of the running service, and whose
model lies on a volume that is there. `helm template` knows no cluster and no running service.
*/}}
{{- define "glm.modelChanges" -}}
{{- $onVolume := and (or (include "glm.modelClaim" .) .Values.modelStorage.volume) (not .Values.modelStorage.fetch.enabled) -}}
{{- if and .Release.IsUpgrade .Values.upgrade.check.enabled $onVolume (.Capabilities.APIVersions.Has "ray.io/v1/RayService") -}}
{{- with lookup "ray.io/v1" "RayService" .Release.Namespace (include "glm.fullname" .) -}}
{{- $running := dict -}}
{{- range (.spec.serveConfigV2 | fromYaml).applications -}}{{- $running = default dict .args -}}{{- end -}}
{{- $wanted := include "glm.arguments" $ | fromYaml -}}
{{- if ne (pick $running "model" "engine" "preprocess" | toJson) (pick $wanted "model" "engine" "preprocess" | toJson) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
