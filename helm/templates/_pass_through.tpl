{{/* What values add to the RayService as it is in rayservice.yaml: environment, volumes, containers, overrides. */}}

{{/* Changes the parsed RayService in place; arguments: root, resource. */}}
{{- define "glm.extendRayService" -}}
{{- $values := .root.Values -}}
{{- $cluster := .resource.spec.rayClusterConfig -}}
{{- include "glm.extendPod" (dict "root" .root "path" "head" "values" $values.head "template" $cluster.headGroupSpec.template "override" $values.overrides.head) -}}
{{- $groups := include "glm.groups" .root | fromJson -}}
{{- range $group := $cluster.workerGroupSpecs -}}
{{- $name := $group.groupName -}}
{{- include "glm.extendPod" (dict "root" $.root "path" (printf "workers.%s" $name) "values" (get $groups $name) "template" $group.template "override" (get (default dict $values.overrides.workers) $name)) -}}
{{- end -}}
{{- end -}}

{{/*
A pod template of Ray; arguments: root, path (of its values), values, template, override. The values of the pod follow
those for all pods. KubeRay runs Ray in the first container, so further containers come after it.
*/}}
{{- define "glm.extendPod" -}}
{{- $all := deepCopy .root.Values -}}
{{- $own := .values -}}
{{- $spec := .template.spec -}}
{{- $env := concat (default list $all.extraEnv) (default list $own.extraEnv) -}}
{{- include "glm.checkOperatorsVariables" (dict "root" .root "path" .path "env" $env) -}}
{{- $envFrom := concat (default list $all.extraEnvFrom) (default list $own.extraEnvFrom) -}}
{{- $mounts := concat (default list $all.extraVolumeMounts) (default list $own.extraVolumeMounts) -}}
{{- /* The containers of the chart: Ray, and the one that copies the model. */ -}}
{{- range $container := concat $spec.containers (default list $spec.initContainers) -}}
{{- $more := ternary (default list $all.modelStorage.fetch.env) list (eq $container.name "fetch") -}}
{{- $_ := set $container "env" (include "glm.environment" (concat (default list $container.env) $env $more) | fromJsonArray) -}}
{{- with concat (default list $container.envFrom) $envFrom -}}{{- $_ := set $container "envFrom" . -}}{{- end -}}
{{- $_ := set $container "volumeMounts" (concat $container.volumeMounts $mounts) -}}
{{- end -}}
{{- with $own.lifecycle -}}
{{- $ray := first $spec.containers -}}
{{- $_ := set $ray "lifecycle" (merge (default dict $ray.lifecycle) .) -}}
{{- end -}}
{{- range $field, $name := dict "volumes" "extraVolumes" "initContainers" "extraInitContainers" "containers" "extraContainers" -}}
{{- with concat (default list (get $spec $field)) (default list (get $all $name)) (default list (get $own $name)) -}}
{{- $_ := set $spec $field . -}}
{{- end -}}
{{- end -}}
{{- include "glm.checkPod" (dict "path" .path "spec" $spec) -}}
{{- range deepCopy (list $all.overrides.all .override) -}}
{{- with . -}}{{- include "glm.mergeStrategically" (dict "base" $.template "patch" .) -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/*
An environment with one entry for each name, of which the last one counts, as JSON; the argument is the list. With a
proxy in it, no_proxy has what must not go through the proxy: KubeRay's readiness probe is `wget http://localhost:...`,
which obeys http_proxy, and the cluster's own services.
*/}}
{{- define "glm.environment" -}}
{{- $entries := dict -}}
{{- $names := list -}}
{{- $proxied := false -}}
{{- range . -}}
{{- $names = append $names .name -}}
{{- $_ := set $entries .name . -}}
{{- if has (lower .name) (list "http_proxy" "https_proxy" "all_proxy") -}}{{- $proxied = true -}}{{- end -}}
{{- end -}}
{{- if $proxied -}}
{{- $lower := default dict (get $entries "no_proxy") -}}
{{- $upper := default dict (get $entries "NO_PROXY") -}}
{{- range $name, $given := dict "no_proxy" (list $lower $upper) "NO_PROXY" (list $upper $lower) -}}
{{- if not (first $given).valueFrom -}}
{{- $hosts := compact (splitList "," (default (last $given).value (first $given).value | default "" | nospace)) -}}
{{- if not (has "*" $hosts) -}}
{{- $hosts = concat $hosts (list "localhost" "127.0.0.1" ".svc" ".cluster.local") | uniq -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- $_ := set $entries $name (dict "name" $name "value" (join "," $hosts)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $unique := list -}}
{{- range uniq $names -}}{{- $unique = append $unique (get $entries .) -}}{{- end -}}
{{- toJson $unique -}}
{{- end -}}

{{/*
Kubernetes' strategic merge of `patch` into `base`, in place: objects are merged, list items are matched by their merge
key, null and `$patch: delete` remove. Items of env and volumes are replaced, because two sources exclude each other.
*/}}
{{- define "glm.mergeStrategically" -}}
{{- $base := .base -}}
{{- $mergeKeys := dict "containers" "name" "initContainers" "name" "volumes" "name" "volumeMounts" "mountPath" "volumeDevices" "devicePath" "env" "name" "ports" "containerPort" "imagePullSecrets" "name" "hostAliases" "ip" "topologySpreadConstraints" "topologyKey" "resourceClaims" "name" -}}
{{- range $field, $new := .patch -}}
{{- $old := get $base $field -}}
{{- if kindIs "invalid" $new -}}
{{- $_ := unset $base $field -}}
{{- else if and (kindIs "map" $new) (kindIs "map" $old) -}}
{{- include "glm.mergeStrategically" (dict "base" $old "patch" $new) -}}
{{- else if and (kindIs "slice" $new) (hasKey $mergeKeys $field) -}}
{{- $key := get $mergeKeys $field -}}
{{- $items := default list $old -}}
{{- range $item := $new -}}
{{- $merged := list -}}
{{- $found := false -}}
{{- range $items -}}
{{- if ne (toString (get . $key)) (toString (get $item $key)) -}}
{{- $merged = append $merged . -}}
{{- else if has $field (list "env" "volumes") -}}
{{- $found = true -}}
{{- if ne (toString (get $item "$patch")) "delete" -}}{{- $merged = append $merged $item -}}{{- end -}}
{{- else -}}
{{- $found = true -}}
{{- if ne (toString (get $item "$patch")) "delete" -}}
{{- include "glm.mergeStrategically" (dict "base" . "patch" $item) -}}
{{- $merged = append $merged . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (or $found (eq (toString (get $item "$patch")) "delete")) -}}{{- $merged = append $merged $item -}}{{- end -}}
{{- $items = $merged -}}
{{- end -}}
{{- $_ := set $base $field $items -}}
{{- else -}}
{{- $_ := set $base $field $new -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* spec.serveService: type, labels and annotations of KubeRay's service; empty if nothing is set. YAML. */}}
{{- define "glm.serveServiceTemplate" -}}
{{- $values := .Values.serveService -}}
{{- $spec := deepCopy (default dict $values.spec) -}}
{{- if ne $values.type "ClusterIP" -}}{{- $_ := set $spec "type" $values.type -}}{{- end -}}
{{- $metadata := dict -}}
{{- with $values.annotations -}}{{- $_ := set $metadata "annotations" . -}}{{- end -}}
{{- with $values.labels -}}{{- $_ := set $metadata "labels" . -}}{{- end -}}
{{- if or $spec $metadata -}}
{{- toYaml (dict "metadata" $metadata "spec" $spec) -}}
{{- end -}}
{{- end -}}
