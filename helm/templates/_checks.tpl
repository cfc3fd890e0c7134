{{/* Checks of combinations of values, which the schema can't express; each fails with one message. */}}

{{- define "glm.checks" -}}
{{- include "glm.checkName" . -}}
{{- include "glm.checkPorts" . -}}
{{- include "glm.checkBounds" . -}}
{{- include "glm.checkAmounts" . -}}
{{- include "glm.checkStages" . -}}
{{- include "glm.checkRoom" . -}}
{{- include "glm.checkMemory" . -}}
{{- include "glm.checkDevice" . -}}
{{- include "glm.checkUpgrade" . -}}
{{- include "glm.checkOperator" . -}}
{{- include "glm.checkNames" . -}}
{{- include "glm.checkObjectNames" . -}}
{{- include "glm.checkAuthentication" . -}}
{{- include "glm.checkAudit" . -}}
{{- include "glm.checkLabels" . -}}
{{- include "glm.checkPassThrough" . -}}
{{- include "glm.checkModelStorage" . -}}
{{- include "glm.checkMonitoring" . -}}
{{- include "glm.checkRest" . -}}
{{- end -}}

{{- define "glm.checkAudit" -}}
{{- $audit := default dict .Values.settings.audit -}}
{{- if and (ne (default "off" $audit.mode) "off") (not .Values.audit.existingClaim) (not $audit.folder) -}}
{{- fail (printf "settings.audit.mode is %s, and there is no volume for the audit log: set audit.existingClaim." $audit.mode) -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkName" -}}
{{- $name := include "glm.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$" $name) -}}
{{- fail (printf "The name %q is not valid: KubeRay accepts at most 47 lower-case letters, digits and '-', beginning with a letter. Set fullnameOverride." $name) -}}
{{- end -}}
{{- end -}}

{{/*
Names of images and hosts, in which addresses are often written. A name that begins with < is a placeholder, which a plugin
of Argo CD replaces after helm. A repository may have a tag where a digest follows it.
*/}}
{{- define "glm.checkNames" -}}
{{- $host := "([A-Za-z0-9.-]+|[[][0-9A-Fa-f:.]+[]])(:[0-9]+)?" -}}
{{- $name := printf "^(%s/)?[a-z0-9]+([._/-]+[a-z0-9]+)*" $host -}}
{{- $all := .Values.image -}}
{{- $images := list (dict "path" "image" "repository" $all.repository "digest" $all.digest) -}}
{{- $pods := dict "head" .Values.head -}}
{{- range $group, $pod := include "glm.groups" . | fromJson -}}{{- $_ := set $pods (print "workers." $group) $pod -}}{{- end -}}
{{- range $path, $pod := $pods -}}
{{- $own := default dict $pod.image -}}
{{- $digest := default (ternary "" $all.digest (not (empty $own.tag))) $own.digest -}}
{{- $images = append $images (dict "path" (ternary (print $path ".image") "image" (not (empty $own.repository))) "repository" (default $all.repository $own.repository) "digest" $digest) -}}
{{- end -}}
{{- range $images -}}
{{- if not (or (hasPrefix "<" .repository) (regexMatch (print $name (ternary "(:[A-Za-z0-9_.-]+)?$" "$" (not (empty .digest)))) .repository)) -}}
{{- fail (printf "%s.repository is %q, which is not the name of an image. Write registry/name in small letters, without https:// in front; tag and digest have values of their own." .path .repository) -}}
{{- end -}}
{{- end -}}
{{- range $path, $image := dict "redis.image" .Values.redis.image "modelStorage.fetch.image" .Values.modelStorage.fetch.image -}}
{{- if and $image (not (hasPrefix "<" $image)) (not (regexMatch (print $name "(:[A-Za-z0-9_.-]+)?(@sha256:[0-9a-f]{64})?$") $image)) -}}
{{- fail (printf "%s is %q, which is not an image. Write registry/name:tag or registry/name@sha256:..., the name in small letters, without https:// in front." $path $image) -}}
{{- end -}}
{{- end -}}
{{- $registry := (default dict .Values.global).imageRegistry -}}
{{- if and $registry (not (hasPrefix "<" $registry)) (not (regexMatch (printf "^%s(/[a-z0-9._/-]*)?$" $host) $registry)) -}}
{{- fail (printf "global.imageRegistry is %q. Write the registry's name, with a port if it has one, for example registry.example.com:5000; without https:// in front." $registry) -}}
{{- end -}}
{{- $hosts := dict "ingress.host" (list .Values.ingress.host) "ingress.extraHosts" .Values.ingress.extraHosts "gateway.hostnames" .Values.gateway.hostnames -}}
{{- range $path, $names := $hosts -}}
{{- range compact (default list $names) -}}
{{- if not (regexMatch "^<|^([*][.])?[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" .) -}}
{{- fail (printf "%s has %q, which is not the name of a host. Write it in small letters, without https://, port or path, for example glm.example.com." $path .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Names of objects that values refer to: pods with a name that can't exist are never created. */}}
{{- define "glm.checkObjectNames" -}}
{{- $values := .Values -}}
{{- $names := dict "modelStorage.existingClaim" $values.modelStorage.existingClaim "audit.existingClaim" $values.audit.existingClaim "serviceAccount.name" $values.serviceAccount.name "rayTokenSecret" $values.rayTokenSecret "modelStorage.fetch.envFromSecret" $values.modelStorage.fetch.envFromSecret "cache.secret.name" $values.cache.secret.name "modelStorage.hubTokenSecret.name" $values.modelStorage.hubTokenSecret.name "faultTolerance.caSecret.name" $values.faultTolerance.caSecret.name "faultTolerance.passwordSecret.name" $values.faultTolerance.passwordSecret.name "ingress.tlsSecret" $values.ingress.tlsSecret "ingress.className" $values.ingress.className "networkPolicy.operatorNamespace" $values.networkPolicy.operatorNamespace -}}
{{- range $name, $secret := omit $values.auth "anonymous" -}}
{{- $_ := set $names (printf "auth.%s.name" $name) $secret.name -}}
{{- end -}}
{{- $pods := dict "head" $values.head "redis" $values.redis "test" $values.test -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- $_ := set $pods (printf "workers.%s" $name) $group -}}
{{- end -}}
{{- range $path, $pod := $pods -}}
{{- range list "priorityClassName" "runtimeClassName" "schedulerName" -}}
{{- $_ := set $names (printf "%s.%s" $path .) (index $pod .) -}}
{{- end -}}
{{- include "glm.checkSelectors" (dict "path" (print $path ".affinity") "node" (default dict $pod.affinity)) -}}
{{- include "glm.checkSelectors" (dict "path" (print $path ".topologySpreadConstraints") "node" (default list $pod.topologySpreadConstraints)) -}}
{{- end -}}
{{- range $path, $name := $names -}}
{{- if and $name (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" $name)) -}}
{{- fail (printf "%s is %q, which is not a name of Kubernetes. Write lower-case letters, digits, '-' and '.', as `kubectl get` shows it." $path $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Values of labels in selectors are text: 1 and true need quotes; arguments: path, node (a list or object). */}}
{{- define "glm.checkSelectors" -}}
{{- $path := .path -}}
{{- if kindIs "slice" .node -}}
{{- range .node -}}{{- include "glm.checkSelectors" (dict "path" $path "node" .) -}}{{- end -}}
{{- else if kindIs "map" .node -}}
{{- range $name, $value := .node -}}
{{- if and (has $name (list "values" "matchLabels")) (not (kindIs "invalid" $value)) -}}
{{- if not (kindIs (ternary "slice" "map" (eq $name "values")) $value) -}}
{{- fail (printf "%s has %v in %s. Write %s." $path $value $name (ternary "a list, for example [a, b]" "labels and their values, for example { app: glm }" (eq $name "values"))) -}}
{{- end -}}
{{- range $value -}}
{{- if not (kindIs "string" .) -}}
{{- fail (printf "%s has %v without quotes in %s. Values of labels are text: write %q." $path . $name (toString .)) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- include "glm.checkSelectors" (dict "path" $path "node" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkAuthentication" -}}
{{- if not (or (include "glm.authenticates" .) (eq .Values.auth.anonymous "allow")) -}}
{{- fail "auth.anonymous is refuse, and there is no authentication: no request could be accepted. Set auth.keysSecret, settings.jwt or settings.access.proxy_header, or allow requests without credentials with auth.anonymous=allow." -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkPorts" -}}
{{- $taken := dict "6379" "Ray's control plane" "8265" "Ray's dashboard" "8500" "Serve's own proxy" "8404" "HAProxy's statistics" "9101" "HAProxy's metrics" "10001" "Ray's client" "44217" "the autoscaler's metrics" "44227" "the dashboard's metrics" "52365" "Ray's agent" -}}
{{- $http := include "glm.port" . -}}
{{- $metrics := include "glm.metricsPort" . -}}
{{- if eq $http $metrics -}}
{{- fail (printf "settings.http.port and settings.metrics.port are both %s. Set two different ports." $http) -}}
{{- end -}}
{{- range $setting, $port := dict "settings.http.port" $http "settings.metrics.port" $metrics -}}
{{- if hasKey $taken $port -}}
{{- fail (printf "%s is %s, which is the port of %s. Set another port." $setting $port (get $taken $port)) -}}
{{- end -}}
{{- if or (and (ge (int $port) 10002) (le (int $port) 19999)) (and (ge (int $port) 30000) (le (int $port) 31000)) -}}
{{- fail (printf "%s is %s. Ray's processes take ports between 10002 and 19999, and Serve's replicas between 30000 and 31000. Set another port." $setting $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkBounds" -}}
{{- range $name, $stage := .Values.stages -}}
{{- if lt (int $stage.replicas.max) (int $stage.replicas.min) -}}
{{- fail (printf "stages.%s.replicas.max is %d, which is less than min (%d)." $name (int $stage.replicas.max) (int $stage.replicas.min)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- if lt (int $group.replicas.max) (int $group.replicas.min) -}}
{{- fail (printf "workers.%s.replicas.max is %d, which is less than min (%d)." $name (int $group.replicas.max) (int $group.replicas.min)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkStages" -}}
{{- $gpus := float64 .Values.stages.engine.gpus -}}
{{- if gt $gpus 1.0 -}}
{{- fail (printf "stages.engine.gpus is %v, but a replica uses one GPU. Set 1 or a fraction, and more replicas for more GPUs." $gpus) -}}
{{- end -}}
{{- $groups := include "glm.groups" . | fromJson -}}
{{- range $stage := list "ingress" "preprocess" "engine" -}}
{{- if not (include "glm.groupsOf" (dict "root" $ "stages" (list $stage)) | fromJsonArray) -}}
{{- fail (printf "No enabled group of `workers` lists %q in its stages. Add it to one." $stage) -}}
{{- end -}}
{{- end -}}
{{- range $name, $group := $groups -}}
{{- if and (gt (int $group.gpus) 0) (or (eq $gpus 0.0) (not (has "engine" $group.stages))) -}}
{{- fail (printf "workers.%s.gpus is %d, but nothing in its pods uses a GPU: %s. Set workers.%s.gpus to 0, or disable the group." $name (int $group.gpus) (ternary "stages.engine.gpus is 0" "the group does not run the engine" (has "engine" $group.stages)) $name) -}}
{{- end -}}
{{- if and (gt (int $group.gpus) 0) (not $group.gpuResource) (not $group.resourceClaims) -}}
{{- fail (printf "workers.%s.gpuResource is empty, so its pods would get no GPU. Name the resource, or claim devices with resourceClaims and resources.claims." $name) -}}
{{- end -}}
{{- if not (include "glm.groupCpus" $group | int) -}}
{{- fail (printf "workers.%s.resources has no cpu in requests or limits, so Ray would count none and start nothing there. Set workers.%s.resources.requests.cpu." $name $name) -}}
{{- end -}}
{{- include "glm.checkDevices" (dict "name" $name "group" $group) -}}
{{- if and (has "engine" $group.stages) (gt $gpus (float64 $group.gpus)) -}}
{{- fail (printf "stages.engine.gpus is %v, but a pod of workers.%s has %d (workers.%s.gpus)." $gpus $name (int $group.gpus) $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The devices of a worker group: Ray is told how many there are, Kubernetes gives them; arguments: name, group. */}}
{{- define "glm.checkDevices" -}}
{{- $gpus := int .group.gpus -}}
{{- if and $gpus .group.gpuResource (not (contains "/" .group.gpuResource)) -}}
{{- fail (printf "workers.%s.gpuResource is %q. Kubernetes' names of devices begin with a domain: write nvidia.com/gpu, or the name that `kubectl describe node` shows." .name .group.gpuResource) -}}
{{- end -}}
{{- $claims := list -}}
{{- range .group.resourceClaims -}}{{- $claims = append $claims .name -}}{{- end -}}
{{- $used := list -}}
{{- range .group.resources.claims -}}
{{- $used = append $used .name -}}
{{- if not (has .name $claims) -}}
{{- fail (printf "workers.%s.resources.claims names %q, which is not in workers.%s.resourceClaims. There are: %s." $.name .name $.name (default "none" (join ", " $claims))) -}}
{{- end -}}
{{- end -}}
{{- if and $gpus (not .group.gpuResource) (not $used) -}}
{{- fail (printf "workers.%s.resourceClaims has devices for the pod, but none for its container. Name them in workers.%s.resources.claims, too: [{ name: %s }]." .name .name (first $claims)) -}}
{{- end -}}
{{- range $resource, $amount := .group.resources.limits -}}
{{- if and (regexMatch "^nvidia[.]com/(gpu|gpu[.]shared|mig-.+)$" $resource) (ne (include "glm.amount" $amount | float64) (float64 $gpus)) -}}
{{- fail (printf "workers.%s.resources.limits has %v of %s, but workers.%s.gpus, which is what Ray counts, is %d. Write the number in workers.%s.gpus only." $.name $amount $resource $.name $gpus $.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The largest number of pods must hold the largest number of replicas, and one more of ingress and preprocess: a rolling
update starts the new replica first, which would wait forever for room.
*/}}
{{- define "glm.checkRoom" -}}
{{- $groups := include "glm.groups" . | fromJson -}}
{{- $bound := ternary "max" "min" .Values.autoscaler.enabled -}}
{{- $why := ternary "" " (the autoscaler is disabled, so there are never more than min pods)" .Values.autoscaler.enabled -}}
{{- $wanted := dict -}}
{{- range $stageName := list "ingress" "preprocess" "engine" -}}
{{- $stage := get $.Values.stages $stageName -}}
{{- $replicas := add (int $stage.replicas.max) (ternary 0 1 (eq $stageName "engine")) -}}
{{- $cpus := include "glm.millicpus" $stage.cpus | int -}}
{{- $_ := set $wanted $stageName (mul $replicas $cpus) -}}
{{- $held := 0 -}}
{{- range $name := include "glm.groupsOf" (dict "root" $ "stages" (list $stageName)) | fromJsonArray -}}
{{- $group := get $groups $name -}}
{{- $ofOnePod := include "glm.replicasOfPod" (dict "stage" $stage "group" $group "most" $replicas) | int -}}
{{- $held = add $held (mul $ofOnePod (include "glm.groupPods" (dict "root" $ "group" $group) | int)) -}}
{{- end -}}
{{- if lt $held (int64 $replicas) -}}
{{- fail (printf "stages.%s: %d replicas (max%s) don't fit: the pods of its groups hold %d. Raise workers.*.replicas.%s or lower stages.%s.replicas.max%s." $stageName $replicas (ternary "" ", and one more in a rolling update" (eq $stageName "engine")) $held $bound $stageName $why) -}}
{{- end -}}
{{- end -}}
{{- range $name, $group := $groups -}}
{{- $only := 0 -}}
{{- range $stageName, $millicpus := $wanted -}}
{{- if eq (include "glm.groupsOf" (dict "root" $ "stages" (list $stageName))) (toJson (list $name)) -}}
{{- $only = add $only $millicpus -}}
{{- end -}}
{{- end -}}
{{- $there := mul 1000 (include "glm.groupCpus" $group | int) (include "glm.groupPods" (dict "root" $ "group" $group) | int) -}}
{{- if gt $only $there -}}
{{- fail (printf "workers.%s: its stages need at most %v CPUs, including one more replica of ingress and preprocess in a rolling update, but %s pods of %s CPUs have %v. Raise workers.%s.replicas.%s or lower the stages' replicas.max%s." $name (divf $only 1000) (include "glm.groupPods" (dict "root" $ "group" $group)) (include "glm.groupCpus" $group) (divf $there 1000) $name $bound $why) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkMemory" -}}
{{- $pods := dict "head" .Values.head -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- $_ := set $pods (printf "workers.%s" $name) $group -}}
{{- end -}}
{{- range $name, $pod := $pods -}}
{{- if ge (include "glm.bytes" $pod.sharedMemory | int64) (include "glm.bytes" $pod.resources.limits.memory | int64) -}}
{{- fail (printf "%s.sharedMemory is %v. It counts as the pod's memory, so it must be less than resources.limits.memory (%v)." $name $pod.sharedMemory $pod.resources.limits.memory) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkDevice" -}}
{{- $device := (include "glm.settings" . | fromJson).model.device -}}
{{- $gpus := float64 .Values.stages.engine.gpus -}}
{{- if and (eq $device "cuda") (eq $gpus 0.0) -}}
{{- fail "settings.model.device is cuda, but stages.engine.gpus is 0." -}}
{{- end -}}
{{- if and (eq $device "cpu") (gt $gpus 0.0) -}}
{{- fail (printf "settings.model.device is cpu, but stages.engine.gpus is %v." $gpus) -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkUpgrade" -}}
{{- with .Values.upgrade -}}
{{- if eq .strategy "NewClusterWithIncrementalUpgrade" -}}
{{- if not .incremental.gatewayClassName -}}
{{- fail "upgrade.strategy NewClusterWithIncrementalUpgrade needs upgrade.incremental.gatewayClassName: KubeRay moves the traffic with a Gateway of that class." -}}
{{- end -}}
{{- if not $.Values.autoscaler.enabled -}}
{{- fail "upgrade.strategy NewClusterWithIncrementalUpgrade needs autoscaler.enabled: the new cluster is scaled up while traffic moves." -}}
{{- end -}}
{{- if gt (int .incremental.stepSizePercent) (int .incremental.maxSurgePercent) -}}
{{- fail (printf "upgrade.incremental.stepSizePercent is %d, which is more than maxSurgePercent (%d)." (int .incremental.stepSizePercent) (int .incremental.maxSurgePercent)) -}}
{{- end -}}
{{- range list "ingress" "gateway" -}}
{{- if (get $.Values .).enabled -}}
{{- fail (printf "%s.enabled can't be used with upgrade.strategy NewClusterWithIncrementalUpgrade: KubeRay creates its own Gateway and route, and there is no single service to route to." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "glm.checkRest" -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs, the Gateways that the route attaches to." -}}
{{- end -}}
{{- $address := .Values.faultTolerance.externalAddress -}}
{{- if and $address (not (regexMatch "^([a-z]+://)?([^]:/@[]+|[[][0-9a-fA-F:.]+[]]):[0-9]+$" $address)) -}}
{{- fail (printf "faultTolerance.externalAddress is %q. Write host:port, for example redis.example.com:6379, rediss://redis.example.com:6380 for TLS, or [fd00::1]:6379." $address) -}}
{{- end -}}
{{- if and $address (gt (include "glm.redisPort" . | int) 65535) -}}
{{- fail (printf "faultTolerance.externalAddress is %q, and ports end at 65535. Set another port." $address) -}}
{{- end -}}
{{- if include "glm.redisBundled" . -}}
{{- range $name, $value := dict "username" .Values.faultTolerance.username "caSecret.name" .Values.faultTolerance.caSecret.name -}}
{{- if $value -}}
{{- fail (printf "faultTolerance.%s is %q, which is for an external Redis: the bundled one has neither users nor certificates. Remove it, or set faultTolerance.externalAddress." $name $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq (toString .Values.enabled) "false" -}}
{{- fail "enabled is false, which has a meaning only as the condition of a parent chart. To remove the service uninstall the release." -}}
{{- end -}}
{{- end -}}
