{{/* Names and labels, and the configuration that the gateway is given. */}}

{{- define "tandem.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "tandem.selector" -}}
app.kubernetes.io/name: tandem
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "tandem.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Called with the chart and a model's name. */}}
{{- define "tandem.vllm.selector" -}}
app.kubernetes.io/name: tandem
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: vllm
tandem/model: {{ index . 1 }}
{{- end -}}

{{/* Called with the chart and an image's values. */}}
{{- define "tandem.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "tandem.configured" -}}
{{- if or .Values.config (and .Values.vllm.enabled .Values.vllm.models) }}true{{ end -}}
{{- end -}}

{{/* Whether somebody may use the admin API from outside the pod: there is a token to ask for. */}}
{{- define "tandem.operated" -}}
{{- if or .Values.admin.secret (get (get .Values.config "admin" | default dict) "tokens") }}true{{ end -}}
{{- end -}}

{{- define "tandem.config" -}}
{{- $root := . -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "listen" (dict "host" "0.0.0.0" "port" 8000) -}}
{{- $admin := dict "host" (ternary "0.0.0.0" "127.0.0.1" (eq (include "tandem.operated" .) "true")) "port" 8001 -}}
{{- if .Values.admin.secret -}}
{{- $_ := set $admin "token_env" "TANDEM_ADMIN_TOKEN" -}}
{{- end -}}
{{- $_ := set $config "admin" (merge $admin (get $config "admin" | default dict)) -}}
{{- if .Values.keys.secret -}}
{{- $_ := set $config "keys" (dict "file" "keys/keys.yaml") -}}
{{- end -}}
{{- $_ := set $config "drain" .Values.drain -}}
{{- if .Values.redis.url -}}
{{- $store := dict "url" .Values.redis.url "name" (include "tandem.name" .) -}}
{{- if .Values.redis.passwordSecret -}}
{{- $_ := set $store "password_env" "TANDEM_STORE_PASSWORD" -}}
{{- end -}}
{{- $_ := set $config "store" $store -}}
{{- end -}}
{{- if .Values.vllm.enabled -}}
{{- $models := deepCopy (get $config "models" | default dict) -}}
{{- range $name, $server := .Values.vllm.models -}}
{{- $set := printf "%s-%s" (include "tandem.name" $root) $name -}}
{{- $urls := list -}}
{{- range $number := until (int ($server.replicas | default 1)) -}}
{{- $urls = append $urls (printf "http://%s-%d.%s:8000" $set $number $set) -}}
{{- end -}}
{{- $model := deepCopy (get $models $name | default dict) -}}
{{- $_ := set $model "backends" $urls -}}
{{- $_ := set $models $name $model -}}
{{- end -}}
{{- $_ := set $config "models" $models -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
