# shellcheck shell=dash
# The target of a scenario: gangway. Sourced by guest-lib.sh; target-kernel.sh is the other one.
# shellcheck disable=SC2154 # address and port are guest-lib.sh's

cp /host/gangway /bin/gangway
target_log=/tmp/gangway.log
gangway_pid=

# The drives at these PCI addresses are taken from the kernel.
target_take() { # PCI_ADDRESS...
    local pci
    gangway bind "$@" || fail "gangway bind $* failed"
    for pci in "$@"; do
        assert_eq "driver of $pci after bind" vfio-pci "$(driver_of "$pci")"
    done
}

# target_serve PCI_ADDRESS... : serves them until target_stop. More options of `serve` in $serve_options.
serve_options=
target_serve() {
    local pci devices=
    # The log begins anew.
    target_did_not_panic
    for pci in "$@"; do
        devices="$devices --device pci:$pci"
    done
    # Word splitting is meant: these are lists of options.
    # shellcheck disable=SC2086
    gangway serve $devices --listen "$address:$port" $serve_options >"$target_log" 2>&1 &
    gangway_pid=$!
    wait_until 60 "gangway serve to be ready" target_is_ready
    sed 's/^/    | /' "$target_log"
}

target_is_ready() {
    kill -0 "$gangway_pid" 2>/dev/null || fail "gangway serve ended before it was ready"
    grep -q 'nvme connect' "$target_log"
}

# Asks it to end, and takes only an orderly end for an answer.
target_stop() {
    local status=0
    kill -0 "$gangway_pid" || fail "gangway serve is not running any more"
    kill -TERM "$gangway_pid"
    # A process that hangs must fail here, not at the scenario's time limit.
    (
        sleep 30
        kill -KILL "$gangway_pid" 2>/dev/null
    ) &
    local watchdog=$!
    wait "$gangway_pid" || status=$?
    kill "$watchdog" 2>/dev/null || true
    assert_eq "exit status of gangway serve after SIGTERM" 0 "$status"
    gangway_pid=
    target_did_not_panic
}

target_did_not_panic() {
    if [ -f "$target_log" ] && grep -iE 'panicked|thread .* has overflowed' "$target_log"; then
        fail "gangway panicked"
    fi
}

# The drives go back to the kernel.
target_return() { # PCI_ADDRESS...
    local pci
    gangway unbind "$@" || fail "gangway unbind $* failed"
    for pci in "$@"; do
        assert_eq "driver of $pci after unbind" nvme "$(driver_of "$pci")"
    done
}

target_show_log() {
    if [ -f "$target_log" ]; then
        printf -- '---- gangway serve\n'
        tail -n 60 "$target_log"
    fi
}
