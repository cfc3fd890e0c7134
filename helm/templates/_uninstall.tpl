{{/* What the uninstall of a release leaves behind, and for how long. */}}

{{/*
Refuses an install while the RayService of an earlier one is being deleted, which takes minutes: the new manifest would
only change that object, and disappear with it. `helm template` knows no cluster and refuses nothing.
*/}}
{{- define "glm.checkDeletion" -}}
{{- if .Capabilities.APIVersions.Has "ray.io/v1/RayService" -}}
{{- $name := include "glm.fullname" . -}}
{{- $before := lookup "ray.io/v1" "RayService" .Release.Namespace $name -}}
{{- with (default dict $before.metadata).deletionTimestamp -}}
{{- fail (printf "The RayService %s of an earlier release is being deleted since %s, and what is installed now would disappear with it. Wait for it with `kubectl -n %s wait --for=delete rayservice/%s --timeout=10m`, then try again." $name . $.Release.Namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
