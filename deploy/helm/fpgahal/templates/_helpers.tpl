{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Names: all begin with the release's, which is "fpgahal" in the plain manifests. */}}
{{- define "fpgahal.name" -}}
{{- if contains "fpgahal" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-fpgahal" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* What a workload is found by: (list $ "plugin"). */}}
{{- define "fpgahal.selector" -}}
app.kubernetes.io/name: fpgahal
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "fpgahal.labels" -}}
{{ include "fpgahal.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{- define "fpgahal.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}{{ end }}
{{- end }}
{{- end }}

{{/* What every container has: no capability, no way to get one, nothing writable. */}}
{{- define "fpgahal.confined" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* kubelet's sockets and folders belong to root, mode 0750 and 0755: user 0, but without a single capability. */}}
{{- define "fpgahal.rootWithoutRights" -}}
runAsUser: 0
runAsGroup: 0
{{- end }}

{{- define "fpgahal.status" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: status
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: status
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* How a pod of ours reaches the API server; its address is known to no policy. */}}
{{- define "fpgahal.apiServer" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - protocol: TCP
      port: {{ . }}
    {{- end }}
{{- end }}

{{/* Puts images for emulated boards into their store. */}}
{{- define "fpgahal.images" -}}
- name: images
  image: {{ include "fpgahal.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -ec]
  args:
    - |
      for image in {{ join " " .Values.emulated.images }}; do
        file=${image#*/}
        fpgahal build-image --board "${image%/*}" --afu "${file%.*}" -o "/tmp/$file"
        fpgahal images add --force --store {{ .Values.emulated.store }} "/tmp/$file"
      done
  resources:
    {{- toYaml .Values.plugin.resources | nindent 4 }}
  securityContext:
    {{- include "fpgahal.rootWithoutRights" . | nindent 4 }}
    {{- include "fpgahal.confined" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    - name: store
      mountPath: {{ .Values.emulated.store }}
{{- end }}
