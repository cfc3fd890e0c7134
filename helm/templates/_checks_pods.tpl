{{/* Checks of names, paths and ports in the pods that values put together; each fails with one message. */}}

{{/* Names and paths of a pod's spec are there once, and each mount has its volume; arguments: path (of its values), spec. */}}
{{- define "glm.checkPod" -}}
{{- $path := .path -}}
{{- $volumes := list -}}
{{- range .spec.volumes -}}
{{- if has .name $volumes -}}
{{- fail (printf "%s: two volumes are named %q. Give the one in extraVolumes another name." $path .name) -}}
{{- end -}}
{{- include "glm.checkPartName" (dict "path" $path "kind" "volume" "name" .name) -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- $containers := list -}}
{{- $ports := list -}}
{{- range concat (default list .spec.initContainers) .spec.containers -}}
{{- $container := .name -}}
{{- if has $container $containers -}}
{{- fail (printf "%s: two containers are named %q. Give the one in extraContainers or extraInitContainers another name." $path $container) -}}
{{- end -}}
{{- include "glm.checkPartName" (dict "path" $path "kind" "container" "name" $container) -}}
{{- if has $container (list "autoscaler" "wait-gcs-ready") -}}
{{- fail (printf "%s: a container is named %q, as one that KubeRay adds to the pods. Give it another name." $path $container) -}}
{{- end -}}
{{- $containers = append $containers $container -}}
{{- include "glm.checkResources" (dict "path" (printf "%s: resources of the container %q" $path $container) "resources" (default dict .resources) "devices" true) -}}
{{- $mounts := dict -}}
{{- range .volumeMounts -}}
{{- $place := clean .mountPath -}}
{{- if hasKey $mounts $place -}}
{{- fail (printf "%s: the volumes %q and %q are both mounted at %s in the container %q. Change the mountPath of one (modelStorage.mountPath, audit.mountPath, extraVolumeMounts)." $path (get $mounts $place) .name $place $container) -}}
{{- end -}}
{{- if eq $place "/" -}}
{{- fail (printf "%s: the volume %q is mounted at / in the container %q, where the image's own files are. Set another mountPath." $path .name $container) -}}
{{- end -}}
{{- if contains ":" $place -}}
{{- fail (printf "%s: the volume %q is mounted at %s in the container %q. A mountPath of Kubernetes contains no colon." $path .name $place $container) -}}
{{- end -}}
{{- $_ := set $mounts $place .name -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "%s: the container %q mounts the volume %q, which does not exist. There are: %s. Add it to extraVolumes." $path $container .name (join ", " $volumes)) -}}
{{- end -}}
{{- end -}}
{{- range .ports -}}
{{- $port := int .containerPort -}}
{{- if has $port $ports -}}
{{- fail (printf "%s: port %d of the container %q is also a port of another container. Choose another one." $path $port $container) -}}
{{- end -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of a volume or container; arguments: path, kind, name. */}}
{{- define "glm.checkPartName" -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" .name) -}}
{{- fail (printf "%s: a %s is named %q. Kubernetes takes at most 63 lower-case letters, digits and '-', with a letter or digit at both ends." .path .kind .name) -}}
{{- end -}}
{{- end -}}

{{/* Labels by which the chart, KubeRay and Helm find objects can't be set. */}}
{{- define "glm.checkLabels" -}}
{{- $of := dict "labels" .Values.labels "commonLabels" .Values.commonLabels "serveService.labels" .Values.serveService.labels -}}
{{- range $name, $part := dict "head" .Values.head "redis" .Values.redis "test" .Values.test -}}
{{- $_ := set $of (print $name ".podLabels") $part.podLabels -}}
{{- end -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- $_ := set $of (printf "workers.%s.podLabels" $name) $group.podLabels -}}
{{- end -}}
{{- range $name := list "podMonitor" "prometheusRule" "dashboards" -}}
{{- $_ := set $of (printf "monitoring.%s.labels" $name) (get $.Values.monitoring $name).labels -}}
{{- end -}}
{{- $taken := list "helm.sh/chart" "glm-vision-serve/group" "ray.io/cluster" "ray.io/node-type" "ray.io/group" "ray.io/is-ray-node" "ray.io/identifier" "ray.io/serve" -}}
{{- range list "name" "instance" "part-of" "component" "version" "managed-by" "created-by" -}}
{{- $taken = append $taken (print "app.kubernetes.io/" .) -}}
{{- end -}}
{{- range $path, $labels := $of -}}
{{- range $label, $_ := $labels -}}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $label) -}}
{{- fail (printf "%s sets the label %q, which is not a name of Kubernetes' labels. Write at most 63 letters, digits, '-', '_' and '.', after a domain and / if you like: example.com/team." $path $label) -}}
{{- end -}}
{{- if has $label $taken -}}
{{- fail (printf "%s sets the label %s, by which network policies, budgets, monitors, KubeRay or Helm find the objects. Use another name." $path $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $path, $annotations := dict "annotations" .Values.annotations "commonAnnotations" .Values.commonAnnotations -}}
{{- range $name, $_ := $annotations -}}
{{- if hasPrefix "helm.sh/hook" $name -}}
{{- fail (printf "%s sets %s, which would make objects of the release hooks, which Helm neither upgrades nor deletes with it. Remove it." $path $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The lifecycle of a worker keeps the chart's preStop hook. Overrides name groups that exist. */}}
{{- define "glm.checkPassThrough" -}}
{{- $groups := include "glm.groups" . | fromJson -}}
{{- range $name, $group := $groups -}}
{{- if hasKey (default dict $group.lifecycle) "preStop" -}}
{{- fail (printf "workers.%s.lifecycle.preStop would replace `glm-serve drain`, without which a stopped pod loses its requests. Remove it; a pod's last work belongs into a container of extraContainers." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.overrides.workers -}}
{{- if not (hasKey $groups $name) -}}
{{- fail (printf "overrides.workers.%s is the name of no enabled group of `workers`. There are: %s." $name (keys $groups | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.upgrade.strategy (eq .Values.upgrade.strategy "NewClusterWithIncrementalUpgrade") (include "glm.serveServiceTemplate" .) -}}
{{- fail "serveService can't be used with upgrade.strategy NewClusterWithIncrementalUpgrade: KubeRay then makes one service for each cluster and ignores it." -}}
{{- end -}}
{{- end -}}

{{/* Azure's managed Prometheus has no kind for alerts. */}}
{{- define "glm.checkMonitoring" -}}
{{- if and .Values.monitoring.prometheusRule.enabled (eq .Values.monitoring.api "azmonitoring.coreos.com") -}}
{{- fail "monitoring.prometheusRule can't be used with monitoring.api azmonitoring.coreos.com, which has no such kind. Disable it, and create Azure's rule groups from the expressions that it renders with monitoring.coreos.com." -}}
{{- end -}}
{{- end -}}

{{/* The volume of the weights: one kind, written by somebody if it is read-only. */}}
{{- define "glm.checkModelStorage" -}}
{{- $storage := .Values.modelStorage -}}
{{- $path := default "" (default dict .Values.settings.model).path -}}
{{- if and $storage.fetch.enabled (not $storage.fetch.image) -}}
{{- fail "modelStorage.fetch.enabled needs modelStorage.fetch.image, an image that can copy the model." -}}
{{- end -}}
{{- if and $storage.volume (or $storage.existingClaim $storage.create) -}}
{{- fail "modelStorage.volume can't be used with modelStorage.existingClaim or modelStorage.create. Remove one." -}}
{{- end -}}
{{- if gt (len (omit $storage.volume "name")) 1 -}}
{{- fail (printf "modelStorage.volume has %d sources (%s), and a volume has one. Remove the others." (len (omit $storage.volume "name")) (keys (omit $storage.volume "name") | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if $storage.subPath -}}
{{- if or (hasPrefix "/" $storage.subPath) (has ".." (splitList "/" $storage.subPath)) -}}
{{- fail (printf "modelStorage.subPath is %q. Write a path in the volume without / in front and without .., for example models/glm." $storage.subPath) -}}
{{- end -}}
{{- end -}}
{{- if include "glm.modelIsReadOnly" . -}}
{{- $what := ternary "modelStorage.readOnly is true" "modelStorage.volume can't be written" $storage.readOnly -}}
{{- if $storage.fetch.enabled -}}
{{- fail (printf "%s, so modelStorage.fetch can't copy the model into the volume. Set one of them." $what) -}}
{{- end -}}
{{- if not (or $storage.existingClaim $storage.volume) -}}
{{- fail "modelStorage.readOnly is true, and a new volume has no model. Set modelStorage.existingClaim or modelStorage.volume." -}}
{{- end -}}
{{- if and $path (not (hasPrefix "/" $path)) -}}
{{- $groups := include "glm.groups" . | fromJson -}}
{{- range include "glm.groupsOf" (dict "root" . "stages" (list "preprocess" "engine")) | fromJsonArray -}}
{{- $hasCache := "" -}}
{{- range concat (default list $.Values.extraEnv) (default list (get $groups .).extraEnv) -}}
{{- if has .name (list "HF_HOME" "HF_HUB_CACHE") -}}{{- $hasCache = "true" -}}{{- end -}}
{{- end -}}
{{- if not (or $hasCache (include "glm.isOffline" (dict "root" $ "group" (get $groups .)))) -}}
{{- fail (printf "%s, so %s can't be downloaded into the volume by workers.%s. Set settings.model.path to a folder of it, below modelStorage.mountPath. Or set in extraEnv, or in that of all workers with preprocess or engine: HF_HOME to another folder for downloads, or HF_HUB_OFFLINE to 1 if the volume has the model in its folder huggingface." $what $path .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $storage.create (not $storage.existingClaim) -}}
{{- if has "ReadWriteOncePod" $storage.accessModes -}}
{{- $pods := 0 -}}
{{- range include "glm.groupsOf" (dict "root" . "stages" (list "preprocess" "engine")) | fromJsonArray -}}
{{- $group := get (include "glm.groups" $ | fromJson) . -}}
{{- $pods = add $pods (include "glm.groupPods" (dict "root" $ "group" $group) | int) -}}
{{- end -}}
{{- if gt $pods 1 -}}
{{- fail (printf "modelStorage.accessModes is ReadWriteOncePod, but up to %d pods mount the volume. Use ReadWriteMany." $pods) -}}
{{- end -}}
{{- end -}}
{{- if eq (toJson $storage.accessModes) `["ReadOnlyMany"]` -}}
{{- fail "modelStorage.accessModes is ReadOnlyMany, so nobody could write a model into the new claim. Use an existing claim that has one (modelStorage.existingClaim and modelStorage.readOnly)." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
With upgrade.strategy None running pods keep their image and get new settings at once, which the old version may not
know. So image and settings change in two upgrades; arguments: root, resource (the new RayService).
*/}}
{{- define "glm.checkUpgradeInPlace" -}}
{{- $running := lookup "ray.io/v1" "RayService" .root.Release.Namespace .resource.metadata.name -}}
{{- if and $running (eq .root.Values.upgrade.strategy "None") -}}
{{- $images := list -}}
{{- $settings := list -}}
{{- range list $running .resource -}}
{{- $images = append $images (first .spec.rayClusterConfig.headGroupSpec.template.spec.containers).image -}}
{{- $settings = append $settings (toJson (first (fromYaml .spec.serveConfigV2).applications).args) -}}
{{- end -}}
{{- if and (ne (first $images) (last $images)) (ne (first $settings) (last $settings)) -}}
{{- fail (printf "The image changes from %s to %s, and `settings` change too. With upgrade.strategy None the running pods keep the old image and get the new settings at once. Upgrade the image alone, delete the RayCluster, and change the settings afterwards; or set upgrade.strategy to NewCluster." (first $images) (last $images)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
