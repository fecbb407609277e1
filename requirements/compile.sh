#!/usr/bin/env bash
# Writes the two lock files anew: exact versions with hashes, no index named.
# Needs uv (`pip install uv`); run it after changing a pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
roots=requirements/.roots.in
trap 'rm -f "$roots"' EXIT
printf '%s\n' "./common[server,mdns]" ./pledge ./registrar ./masa ./interop "hatchling>=1.27" "editables>=0.5" >"$roots"
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command "requirements/compile.sh" \
        --no-emit-package brski-common --no-emit-package brski-pledge --no-emit-package brski-registrar \
        --no-emit-package brski-masa --no-emit-package brski-interop "$@"
}
compile "$roots" -o requirements/runtime.lock
compile "$roots" --group dev -o requirements/dev.lock
