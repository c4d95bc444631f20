#!/usr/bin/env bash
# The API with curl: submit a job, wait for it, fetch its picture.   examples/curl.sh [address [folder]]
# With a key: export SDSPOOL_KEY=...
set -euo pipefail
server=${1:-http://127.0.0.1:7860} folder=${2:-.}
auth=(${SDSPOOL_KEY:+-H "Authorization: Bearer $SDSPOOL_KEY"})
ask() { curl --silent --show-error --fail-with-body "${auth[@]}" "$@"; }
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }

# 201: the job is on disk, and a power cut cannot take it back. With the same key it is the same job, however often this is sent.
id=$(ask "$server/api/v1/jobs" -H 'Content-Type: application/json' -H "Idempotency-Key: $(date +%s%N)" \
  -d '{"prompt": "a large red circle on a blue background", "seed": 5}' | field id)
echo "submitted $id"

# Each question is answered when the job has ended, or after 30 seconds.
until status=$(ask "$server/api/v1/jobs/$id?wait=30" | field status) && [[ $status =~ ^(done|failed|cancelled)$ ]]; do
  echo "$status"
done
[ "$status" = done ] || { echo "the job is $status" >&2 && exit 1; }

ask "$server/api/v1/jobs/$id/images/0.png" -o "$folder/$id.png"
echo "$folder/$id.png"

# Many at once, a prompt a line: all of them are accepted, or none.
ask "$server/api/v1/batches" -H 'Content-Type: text/plain' --data-binary $'a small green square\na yellow star' | field id

# As OpenAI's clients do: one request that waits.
ask "$server/v1/images/generations" -H 'Content-Type: application/json' \
  -d '{"prompt": "a large red circle on a blue background", "n": 1, "response_format": "url"}' | grep -o 'http[^"]*png'
