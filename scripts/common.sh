# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by every script after it has set $root (the top of the checkout).
# Gives: $build, $cache, say, die, step.

set -eu
build=${QI_BUILD:-$root/build}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qemu-iommufd
logs=$build/logs
jobs=${QI_JOBS:-$(nproc)}
overlay='hw backends include docs qapi tests/unit tests/qtest'
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH" LC_ALL=C.UTF-8
unset GREP_OPTIONS MAKEFLAGS QUILT_PATCHES QUILT_SERIES 2>/dev/null || :
mkdir -p "$cache" "$logs"

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step MINUTES LOGNAME TITLE COMMAND... - run a long command: its output goes
# to build/logs/LOGNAME.log, a line says every 20 s how far it is.
step() {
    step_min=$1 step_log=$logs/$2.log step_title=$3
    shift 3
    say "$step_title (about $step_min min; log: $step_log)"
    "$@" >"$step_log" 2>&1 </dev/null &
    step_pid=$!
    step_t0=$(date +%s) step_next=20
    while kill -0 $step_pid 2>/dev/null; do
        sleep 1
        step_t=$(($(date +%s) - step_t0))
        if [ $step_t -ge $step_next ]; then
            step_next=$((step_t + 20))
            say "  ... ${step_t}s: $(tail -n 1 "$step_log" | tr -d '\r' | cut -c -90)"
        fi
    done
    if ! wait $step_pid; then
        grep -E '(error|ERROR|FAILED|No space)' "$step_log" | head -n 5 >&2 || :
        tail -n 15 "$step_log" >&2
        die "$step_title: failed; the whole log is $step_log"
    fi
}
