{{- define "dsp.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "dsp.selector" -}}
app.kubernetes.io/name: dsp
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "dsp.labels" -}}
{{ include "dsp.selector" . }}
app.kubernetes.io/part-of: dsp
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "dsp.claim" -}}
{{ .Values.storage.existingClaim | default (printf "%s-shared" (include "dsp.name" .)) }}
{{- end }}

{{/* Settings as variables of the environment. Numbers go through JSON: Helm reads them all as floats, 1000000 as 1e+06. */}}
{{- define "dsp.settings" -}}
{{- range $table, $settings := .Values.settings }}
{{- range $name, $value := $settings }}
{{- if kindIs "string" $value }}
{{- if $value }}
{{ printf "DSP_%s_%s" $table $name | upper }}: {{ $value | quote }}
{{- end }}
{{- else }}
{{ printf "DSP_%s_%s" $table $name | upper }}: {{ $value | toJson | quote }}
{{- end }}
{{- end }}
{{- end }}
DSP_WORKERS_METRICS_PORT_BASE: {{ .Values.metricsPortBase | toJson | quote }}
{{- if .Values.exchanges }}
DSP_PLATFORM_EXCHANGES_DIR: /etc/dsp/exchanges
{{- end }}
{{- end }}

{{/* Secrets by reference: each process gets those that it uses, in `of`. */}}
{{- define "dsp.secretEnv" -}}
{{- $secrets := .root.Values.secrets }}
{{- $variables := dict "database" "DATABASE_URL" "cache" "CACHE_URL" "signingKeys" "SIGNING_KEYS" "hashKey" "HASH_KEY" }}
{{- range $secret := .of }}
- name: DSP_PLATFORM_{{ get $variables $secret }}
  valueFrom:
    secretKeyRef: {{ get $secrets $secret | toJson }}
{{- end }}
{{- end }}

{{/* By which an operator finds what it is to read. */}}
{{- define "dsp.monitoringLabels" -}}
{{ include "dsp.labels" . }}
{{- with .root.Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What all pods have in common, and below it all containers. */}}
{{- define "dsp.pod" -}}
automountServiceAccountToken: false
# A Service that is called dsp-api would otherwise become DSP_API_PORT, which is a setting.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "dsp.container" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* What every pod mounts; where `data` is, each workload says itself. A process adds parts of the shared volume to it. */}}
{{- define "dsp.mounts" -}}
- { name: data, mountPath: /var/lib/dsp }
- { name: tmp, mountPath: /tmp }
{{- if .Values.exchanges }}
- { name: exchanges, mountPath: /etc/dsp/exchanges, readOnly: true }
{{- end }}
{{- end }}

{{- define "dsp.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.exchanges }}
- name: exchanges
  configMap: { name: {{ include "dsp.name" . }}-exchanges }
{{- end }}
{{- end }}

{{- define "dsp.sharedVolume" -}}
- name: shared
  persistentVolumeClaim: { claimName: {{ include "dsp.claim" . }} }
{{- end }}

{{- define "dsp.podAnnotations" -}}
checksum/settings: {{ include "dsp.settings" . | sha256sum }}
checksum/exchanges: {{ .Values.exchanges | toJson | sha256sum }}
{{- end }}

{{- define "dsp.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "dsp.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
