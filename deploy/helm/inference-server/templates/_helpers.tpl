{{/* Names. Kubernetes allows 63 characters. */}}
{{- define "inference-server.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "inference-server.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "inference-server.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "inference-server.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Name of a resource beside the server, such as its claim. */}}
{{- define "inference-server.part" -}}
{{- printf "%s-%s" (include "inference-server.fullname" .root | trunc 50 | trimSuffix "-") .part }}
{{- end }}

{{- define "inference-server.selector" -}}
app.kubernetes.io/name: {{ include "inference-server.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "inference-server.labels" -}}
{{ include "inference-server.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "inference-server.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- define "inference-server.secret" -}}
{{- default (include "inference-server.fullname" .) .Values.existingSecret }}
{{- end }}

{{- define "inference-server.weightsClaim" -}}
{{- default (include "inference-server.part" (dict "root" . "part" "weights")) .Values.weights.existingClaim }}
{{- end }}

{{- define "inference-server.dataClaim" -}}
{{- default (include "inference-server.part" (dict "root" . "part" "data")) .Values.data.existingClaim }}
{{- end }}

{{/* Highest number of pods. */}}
{{- define "inference-server.most" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{/* Seconds to stop: the drain, work in progress, and 20 more. */}}
{{- define "inference-server.grace" -}}
{{- $drain := dig "drain_seconds" 15 .Values.settings | float64 }}
{{- $shutdown := dig "shutdown_timeout" 25 .Values.settings | float64 }}
{{- ceil (addf $drain $shutdown 20) | int }}
{{- end }}

{{/* Refuse combinations that cannot work. */}}
{{- define "inference-server.checked" -}}
{{- if .Values.existingSecret }}
{{- range $name, $value := .Values.secrets }}
{{- if $value }}
{{- fail (printf "existingSecret replaces secrets: move %s into it, and leave secrets empty" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- $shared := or .Values.existingSecret .Values.secrets.INFERENCE_DATABASE_URL }}
{{- if and (gt (int (include "inference-server.most" .)) 1) (not $shared) }}
{{- fail "several pods need a shared database: set secrets.INFERENCE_DATABASE_URL, or existingSecret" }}
{{- end }}
{{- if and (gt (int (include "inference-server.most" .)) 1) .Values.data.persistence }}
{{- fail "data.persistence is for one pod: its SQLite database cannot be shared; set it to false" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas" }}
{{- end }}
{{- $open := eq (dig "auth" "on" .Values.settings | toString) "off" }}
{{- if not (or $shared .Values.secrets.INFERENCE_API_KEYS .Values.data.persistence $open) }}
{{- fail "there are no API keys: set secrets.INFERENCE_API_KEYS or existingSecret (docs/keys.md)" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.enabled needs ingress.host" }}
{{- end }}
{{- end }}

{{/* Annotations that route by a hash of a header, for some controllers. */}}
{{- define "inference-server.affinityAnnotations" -}}
{{- $header := .Values.ingress.affinity.header | lower }}
{{- $variable := printf "$http_%s" ($header | replace "-" "_") }}
{{- $controller := .Values.ingress.affinity.controller }}
{{- if eq $controller "haproxy" }}
haproxy.org/load-balance: {{ printf "hdr(%s)" $header | quote }}
{{- else if eq $controller "haproxy-ingress" }}
haproxy-ingress.github.io/balance-algorithm: {{ printf "hdr(%s)" $header | quote }}
{{- else if eq $controller "nginx" }}
nginx.org/lb-method: {{ printf "hash %s$remote_addr consistent" $variable | quote }}
{{- else if eq $controller "ingress-nginx" }}
nginx.ingress.kubernetes.io/upstream-hash-by: {{ printf "%s$remote_addr" $variable | quote }}
{{- end }}
{{- end }}
