{{/*
The form in which KubeRay's operator writes a RayService back after the install: Go's JSON of the API's types. A field that
looks different there belongs to the operator from then on, and Helm 4 refuses each later upgrade with a conflict; so the
chart renders this form from the start.
*/}}

{{/* Changes a parsed manifest (a map or a list) to this form, in place. */}}
{{- define "glm.canonicalize" -}}
{{- $node := . -}}
{{- if kindIs "slice" $node -}}
{{- range $node -}}{{- include "glm.canonicalize" . -}}{{- end -}}
{{- else if kindIs "map" $node -}}
{{- range $key, $value := $node -}}
{{- if and (has $key (list "requests" "limits")) (kindIs "map" $value) -}}
{{- include "glm.removeNulls" $value -}}
{{- range $resource, $amount := $value -}}
{{- $_ := set $value $resource (include "glm.quantity" $amount) -}}
{{- end -}}
{{- else if and (has $key (list "sizeLimit" "divisor")) (not (kindIs "invalid" $value)) -}}
{{- $_ := set $node $key (include "glm.quantity" $value) -}}
{{- else if has $key (list "containers" "initContainers") -}}
{{- range $value -}}{{- $_ := set . "resources" (default dict .resources) -}}{{- end -}}
{{- include "glm.canonicalize" $value -}}
{{- else -}}
{{- include "glm.canonicalize" $value -}}
{{- end -}}
{{- /* Go leaves these out. A label or an annotation may be "", the value of a variable or a toleration is then absent. */ -}}
{{- $isEmptyList := and (kindIs "slice" $value) (empty $value) -}}
{{- $isEmptyValue := and (eq $key "value") (kindIs "string" $value) (empty $value) (or (hasKey $node "name") (hasKey $node "key")) -}}
{{- $isFalse := and (eq $key "readOnly") (kindIs "bool" $value) (empty $value) -}}
{{- if or (kindIs "invalid" $value) $isEmptyList $isEmptyValue $isFalse -}}
{{- $_ := unset $node $key -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A quantity in Kubernetes' canonical form (apimachinery, pkg/api/resource/quantity.go): the largest unit with an integer
before it. 1000m -> 1, 0.5 -> 500m, 2048Mi -> 2Gi, 25.5Gi -> 26112Mi, 129e6 -> 129e6. A number may also be given, which
the API server refuses in a RayService where it is a fraction.
*/}}
{{- define "glm.quantity" -}}
{{- $written := toString . -}}
{{- if not (regexMatch "^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]+)?$" $written) -}}
{{- fail (printf "%q is not an amount of a resource. Write a number with a unit of Kubernetes or none, for example 500m, 2 or 1.5Gi." $written) -}}
{{- end -}}
{{- $number := regexFind "^[0-9.]+" (trimPrefix "+" $written) -}}
{{- $unit := trimPrefix $number (trimPrefix "+" $written) -}}
{{- $parts := splitList "." $number -}}
{{- $decimals := regexReplaceAll "0+$" (index (append $parts "") 1) "" -}}
{{- $digits := regexReplaceAll "^0+" (print (index $parts 0) $decimals) "" -}}
{{- if not $digits -}}
0
{{- else if hasSuffix "i" $unit -}}
{{- $power := get (dict "Ki" 1 "Mi" 2 "Gi" 3 "Ti" 4 "Pi" 5 "Ei" 6) $unit -}}
{{- include "glm.binaryQuantity" (dict "written" $written "digits" $digits "decimals" (len $decimals) "power" $power) -}}
{{- else -}}
{{- $exponents := dict "n" -9 "u" -6 "m" -3 "" 0 "k" 3 "M" 6 "G" 9 "T" 12 "P" 15 "E" 18 -}}
{{- $scientific := not (hasKey $exponents $unit) -}}
{{- $exponent := 0 -}}
{{- if $scientific -}}
{{- /* Not `int`, which reads 010 as an octal number. */ -}}
{{- $exponent = regexReplaceAll "^[eE][+]?(-?)0*([0-9])" $unit "${1}${2}" | int -}}
{{- else -}}
{{- $exponent = get $exponents $unit -}}
{{- end -}}
{{- include "glm.decimalQuantity" (dict "written" $written "digits" $digits "exponent" (sub $exponent (len $decimals)) "scientific" (and $scientific (kindIs "string" .))) -}}
{{- end -}}
{{- end -}}

{{/* digits * 10^exponent; arguments: written, digits (no zero in front), exponent, scientific (written with an e). */}}
{{- define "glm.decimalQuantity" -}}
{{- $significant := regexReplaceAll "0+$" .digits "" -}}
{{- $exponent := add .exponent (sub (len .digits) (len $significant)) | int -}}
{{- $shift := mod (add 300 $exponent) 3 | int -}}
{{- $exponent = sub $exponent $shift | int -}}
{{- $units := dict "-9" "n" "-6" "u" "-3" "m" "0" "" "3" "k" "6" "M" "9" "G" "12" "T" "15" "P" "18" "E" -}}
{{- if not (hasKey $units (toString $exponent)) -}}
{{- fail (printf "The amount %s of a resource is finer or larger than Kubernetes' units. Write fewer digits." .written) -}}
{{- end -}}
{{- $unit := get $units (toString $exponent) -}}
{{- if and .scientific (ne $exponent 0) -}}{{- $unit = printf "e%d" $exponent -}}{{- end -}}
{{- print $significant (repeat $shift "0") $unit -}}
{{- end -}}

{{/* digits * 10^-decimals * 1024^power; arguments: written, digits (no zero in front), decimals, power. */}}
{{- define "glm.binaryQuantity" -}}
{{- $bytes := .digits | int64 -}}
{{- $power := .power -}}
{{- $ten := 1 -}}
{{- if .decimals -}}
{{- /* digits * 1024^power has to fit into 64 bits, which are 18.96 decimal digits; 1024 are 3.02. */ -}}
{{- if gt (add (mul 100 (len .digits)) (mul 302 .power)) 1896 -}}
{{- fail (printf "The amount %s of a resource has too many digits. Write it in a smaller unit." .written) -}}
{{- end -}}
{{- range until (int .power) -}}{{- $bytes = mul $bytes 1024 -}}{{- end -}}
{{- range until (int .decimals) -}}{{- $ten = mul $ten 10 -}}{{- end -}}
{{- $power = 0 -}}
{{- end -}}
{{- if and .decimals (or (lt $bytes (mul 1024 $ten)) (mod $bytes $ten)) -}}
{{- include "glm.decimalQuantity" (dict "written" .written "digits" (toString $bytes) "exponent" (sub 0 .decimals) "scientific" false) -}}
{{- else -}}
{{- $bytes = div $bytes $ten -}}
{{- $units := list "" "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" -}}
{{- range until (sub 6 $power | int) -}}
{{- if eq (mod $bytes 1024) 0 -}}
{{- $bytes = div $bytes 1024 -}}
{{- $power = add $power 1 | int -}}
{{- end -}}
{{- end -}}
{{- print $bytes (index $units $power) -}}
{{- end -}}
{{- end -}}
