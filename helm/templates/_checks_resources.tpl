{{/* Checks of amounts: of a pod's resources and of its volumes; each fails with one message. */}}

{{/* The amounts of all values, by the paths where they are written. */}}
{{- define "glm.checkAmounts" -}}
{{- $values := .Values -}}
{{- $resources := dict "autoscaler" $values.autoscaler "redis" $values.redis "test" $values.test "upgrade.check" $values.upgrade.check "uninstall" $values.uninstall "modelStorage.fetch" $values.modelStorage.fetch -}}
{{- $sizes := dict "modelStorage.size" $values.modelStorage.size "modelStorage.emptyDirSizeLimit" $values.modelStorage.emptyDirSizeLimit "redis.persistence.size" $values.redis.persistence.size -}}
{{- $pods := dict "head" $values.head -}}
{{- range $name, $group := include "glm.groups" . | fromJson -}}
{{- $_ := set $pods (printf "workers.%s" $name) $group -}}
{{- end -}}
{{- range $path, $pod := $pods -}}
{{- $_ := set $resources $path $pod -}}
{{- range list "sharedMemory" "temporaryStorage" -}}{{- $_ := set $sizes (printf "%s.%s" $path .) (get $pod .) -}}{{- end -}}
{{- end -}}
{{- range $path, $part := $resources -}}
{{- include "glm.checkResources" (dict "path" (print $path ".resources") "resources" (default dict $part.resources) "devices" (hasPrefix "workers." $path)) -}}
{{- end -}}
{{- range $path, $size := $sizes -}}
{{- include "glm.checkAmount" (dict "path" $path "resource" "memory" "amount" $size) -}}
{{- end -}}
{{- end -}}

{{/* Requests and limits of one container; arguments: path, resources, devices (whether it may have some). */}}
{{- define "glm.checkResources" -}}
{{- $path := .path -}}
{{- $devices := .devices -}}
{{- if not (kindIs "map" .resources) -}}
{{- fail (printf "%s is %v. Write an object with requests and limits, for example { limits: { memory: 4Gi } }." $path .resources) -}}
{{- end -}}
{{- range $kind, $amounts := pick .resources "requests" "limits" -}}
{{- if not (kindIs "map" (default dict $amounts)) -}}
{{- fail (printf "%s.%s is %v. Write amounts by the names of resources, for example { cpu: 500m, memory: 4Gi }." $path $kind $amounts) -}}
{{- end -}}
{{- include "glm.removeNulls" $amounts -}}
{{- end -}}
{{- $requests := default dict .resources.requests -}}
{{- $limits := default dict .resources.limits -}}
{{- range $kind, $amounts := dict "requests" $requests "limits" $limits -}}
{{- range $resource, $amount := $amounts -}}
{{- include "glm.checkAmount" (dict "path" (printf "%s.%s.%s" $path $kind $resource) "resource" $resource "amount" $amount "devices" $devices) -}}
{{- end -}}
{{- end -}}
{{- range $resource, $requested := $requests -}}
{{- $limited := get $limits $resource -}}
{{- if and (contains "/" $resource) $devices -}}
{{- if ne (toString $requested) (toString $limited) -}}
{{- fail (printf "%s.requests has %v of %s, and limits has %v. Kubernetes wants them to be equal: write it in limits only." $path $requested $resource (default "none" $limited)) -}}
{{- end -}}
{{- else if hasKey $limits $resource -}}
{{- if gt (include "glm.amount" $requested | float64) (include "glm.amount" $limited | float64) -}}
{{- fail (printf "%s.requests.%s is %v, which is more than limits.%s (%v): Kubernetes would refuse the pods. Raise the limit, or lower the request." $path $resource $requested $resource $limited) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One amount; arguments: path, resource, amount, devices. */}}
{{- define "glm.checkAmount" -}}
{{- $written := toString .amount -}}
{{- if not (regexMatch "^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]+)?$" $written) -}}
{{- fail (printf "%s is %q, which is not an amount of a resource. Write a number with a unit of Kubernetes or none, for example %s." .path $written (ternary "24Gi or 512Mi" "500m or 2" (ne .resource "cpu"))) -}}
{{- end -}}
{{- $amount := include "glm.amount" .amount | float64 -}}
{{- if and (eq .resource "memory") (regexMatch "[0-9.][num]?$" $written) (gt $amount 0.0) (lt $amount 1048576.0) -}}
{{- fail (printf "%s is %s, which is less than one mebibyte: without a unit Kubernetes counts bytes, and m is a thousandth of one. Write for example 24Gi or 512Mi." .path $written) -}}
{{- end -}}
{{- if and .devices (contains "/" .resource) (ne $amount (floor $amount)) -}}
{{- fail (printf "%s is %s, and Kubernetes gives whole devices only. Write a whole number; stages.engine.gpus may be a fraction of a GPU." .path $written) -}}
{{- end -}}
{{- end -}}
