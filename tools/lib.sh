# Sourced by the bash tools: goes to the root of the project and offers what several of them need.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where cargo puts its output.
target_dir="${CARGO_TARGET_DIR:-target}"

# Sets MILLRACE_NATS_SERVER and MILLRACE_REDIS_SERVER. Not `eval "$(tools/servers)"`: that would hide a failure.
bring_servers() {
    local exports
    exports="$(tools/servers)"
    eval "$exports"
}
