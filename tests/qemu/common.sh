# shellcheck shell=bash disable=SC2034 # those who source this use its variables
# What every script of the lab that runs on the host shares. Sourced, never run.

tests_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root_dir=$(cd "$tests_dir/.." && pwd)
# Everything the lab makes lives here, so that removing target/ removes all of it.
lab_dir=$root_dir/target/qemu

note() {
    printf '%s  %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# scenario_path NAME: the file of a scenario, or of a benchmark; fails when there is none.
scenario_path() {
    local folder
    for folder in scenarios benchmarks; do
        if [[ -f $tests_dir/qemu/$folder/$1 ]]; then
            printf '%s\n' "$tests_dir/qemu/$folder/$1"
            return 0
        fi
    done
    return 1
}

# scenario_header NAME KEY: the values of the `# KEY: value` lines at the head of a scenario, one a line.
# The header ends at the first line that is no comment.
scenario_header() {
    awk -v key="# $2: " '
        !/^#/ { exit }
        index($0, key) == 1 { print substr($0, length(key) + 1) }
    ' "$(scenario_path "$1")"
}
