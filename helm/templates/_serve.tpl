{{/* Ray Serve's configuration: the application of serve_app.app with its settings, and the replicas of each stage. */}}

{{/*
The builder's arguments: only the given settings, so that new defaults of the package come with its image, and the
model's device, which follows from the chart's values. A given list of allowed Host names also gets those that this
release uses: of its services (other pods, `helm test`), of its Ingress and route.
*/}}
{{- define "glm.arguments" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $engine := .Values.stages.engine -}}
{{- $model := default dict $settings.model -}}
{{- if not $model.device -}}
{{- $_ := set $model "device" (ternary "cuda" "cpu" (gt (float64 $engine.gpus) 0.0)) -}}
{{- end -}}
{{- $_ := set $settings "model" $model -}}
{{- if eq $model.device "cpu" -}}
{{- /* Without this, torch would use as many threads as the machine has cores. */ -}}
{{- $threads := dict "threads" (ceil (float64 $engine.cpus) | int) -}}
{{- $_ := set $settings "engine" (mergeOverwrite $threads (default dict $settings.engine)) -}}
{{- end -}}
{{- $http := default dict $settings.http -}}
{{- with $http.allowed_hosts -}}
{{- $names := concat . (list $.Values.ingress.host) $.Values.ingress.extraHosts $.Values.gateway.hostnames -}}
{{- range $service := list (include "glm.serveService" $) (include "glm.testService" $) -}}
{{- range $end := list "" (printf ".%s" $.Release.Namespace) (printf ".%s.svc" $.Release.Namespace) (printf ".%s.svc.cluster.local" $.Release.Namespace) -}}
{{- $names = append $names (print $service $end) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $http "allowed_hosts" (compact $names | uniq) -}}
{{- end -}}
{{- $given := dict "access" dict "jwt" dict "limits" dict -}}
{{- if not (include "glm.authenticates" .) -}}
{{- $_ := set $given.access "anonymous" "allow" -}}
{{- end -}}
{{- range $secret := include "glm.ingressSecrets" . | fromJsonArray -}}
{{- $_ := set (get $given $secret.section) $secret.setting (printf "%s/%s" $secret.folder $secret.key) -}}
{{- end -}}
{{- range $section, $values := $given -}}
{{- with mergeOverwrite $values (default dict (get $settings $section)) -}}
{{- $_ := set $settings $section . -}}
{{- end -}}
{{- end -}}
{{- $secret := .Values.cache.secret -}}
{{- $cache := dict -}}
{{- if and $secret.name $secret.passwordKey -}}
{{- $_ := set $cache "redis_password_file" (printf "%s/%s" (include "glm.cacheFolder" .) $secret.passwordKey) -}}
{{- end -}}
{{- if and $secret.name $secret.signingKey -}}
{{- $_ := set $cache "signing_key_file" (printf "%s/%s" (include "glm.cacheFolder" .) $secret.signingKey) -}}
{{- end -}}
{{- with mergeOverwrite $cache (default dict $settings.cache) -}}
{{- $_ := set $settings "cache" . -}}
{{- end -}}
{{- if .Values.audit.existingClaim -}}
{{- $folder := dict "folder" .Values.audit.mountPath -}}
{{- $_ := set $settings "audit" (mergeOverwrite $folder (default dict $settings.audit)) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* The Secrets that the ingress reads as files, and the settings that name these files, as JSON. */}}
{{- define "glm.ingressSecrets" -}}
{{- $secrets := list -}}
{{- $auth := .Values.auth -}}
{{- range $name, $use := dict "keys" (list $auth.keysSecret "access" "keys_file") "jwt" (list $auth.jwtSecret "jwt" "secret_file") "limits-redis" (list $auth.limitsRedisSecret "limits" "redis_password_file") "widget" (list $auth.widgetSecret "access" "widget_secret_file") -}}
{{- $secret := index $use 0 -}}
{{- if $secret.name -}}
{{- $secrets = append $secrets (dict "name" $name "secret" $secret.name "key" $secret.key "folder" (printf "/etc/glm-serve/%s" $name) "section" (index $use 1) "setting" (index $use 2)) -}}
{{- end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{- define "glm.cacheFolder" -}}/etc/glm-serve/cache{{- end -}}

{{/* Not empty if requests need credentials: there are keys, JSON Web Tokens or a proxy that names the caller. */}}
{{- define "glm.authenticates" -}}
{{- $access := default dict .Values.settings.access -}}
{{- $jwt := default dict .Values.settings.jwt -}}
{{- if or .Values.auth.keysSecret.name .Values.auth.jwtSecret.name $access.keys_file $access.proxy_header $jwt.keys $jwt.secret_file -}}true{{- end -}}
{{- end -}}

{{/*
serveConfigV2. A stage runs in the worker groups that offer its Ray resource (1000 units each). Serve's own deadline is
later than the service's, whose error says more. A replica that is stopped has time for the longest allowed answer. Load
is reported every 2 s and used as a mean over 10 s (docs/decisions/0008-autoscaling.md). Ingress and preprocess start the
new replica before the old one stops (_checks.tpl checks the room for it); the engine would need another GPU for that. A
stage that is spread over pods has other replicas meanwhile, and its pods may be full.
*/}}
{{- define "glm.serveConfig" -}}
{{- $settings := include "glm.settings" . | fromJson -}}
{{- $answerSeconds := include "glm.answerSeconds" . | int -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {{ include "glm.port" . }}
  request_timeout_s: {{ add $answerSeconds 10 }}
logging_config:
  encoding: JSON
  log_level: {{ $settings.log.level }}
  enable_access_log: false
  additional_log_standard_attrs: [name]
  {{- with $settings.log.folder }}
  logs_dir: {{ . | quote }}
  {{- end }}
applications:
  - name: glm
    import_path: serve_app.app:build
    route_prefix: /
    args:
      {{- include "glm.arguments" . | nindent 6 }}
    deployments:
      {{- range $name := list "ingress" "preprocess" "engine" }}
      {{- $stage := get $.Values.stages $name }}
      - name: {{ $name }}
        ray_actor_options:
          num_cpus: {{ include "glm.number" $stage.cpus }}
          {{- if eq $name "engine" }}
          num_gpus: {{ include "glm.number" $stage.gpus }}
          {{- end }}
          resources: { {{ $name }}: 0.001 }
        autoscaling_config:
          min_replicas: {{ int $stage.replicas.min }}
          max_replicas: {{ int $stage.replicas.max }}
          metrics_interval_s: 2
          look_back_period_s: 10
          upscale_delay_s: {{ include "glm.number" $stage.upscaleDelaySeconds }}
          downscale_delay_s: {{ include "glm.number" $stage.downscaleDelaySeconds }}
          {{- if eq $name "engine" }}
          {{- if eq (int $stage.replicas.min) 0 }}
          {{- /* One at the start, so that a model that can't load is noticed at the install. */}}
          initial_replicas: 1
          downscale_to_zero_delay_s: {{ include "glm.number" $stage.downscaleToZeroDelaySeconds }}
          {{- end }}
          policy:
            policy_function: serve_app.engine.scaling:replicas_for_load
            policy_kwargs:
              target_tokens_in_flight: {{ include "glm.number" $stage.targetTokensInFlight }}
              target_kv_use: {{ include "glm.number" $stage.targetKvUse }}
          {{- else }}
          target_ongoing_requests: {{ include "glm.number" $stage.targetOngoingRequests }}
          {{- end }}
        graceful_shutdown_timeout_s: {{ $answerSeconds }}
        {{- $perPod := include "glm.replicasPerPod" (dict "root" $ "stage" $name) }}
        {{- with $perPod }}
        max_replicas_per_node: {{ . }}
        {{- end }}
        {{- if and (ne $name "engine") (not $perPod) }}
        max_surge_percent: 25
        {{- end }}
      {{- end }}
      {{- if dig "bots" "enabled" false .Values.settings }}
      {{- /* One replica, in a pod of the ingress, where files of secrets are mounted (docs/wecom.md). */}}
      - name: bots
        ray_actor_options: { num_cpus: 0, resources: { ingress: 0.001 } }
      {{- end }}
{{- end -}}
