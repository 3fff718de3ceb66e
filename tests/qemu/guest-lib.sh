# shellcheck shell=dash
# What the scenarios are written with. Runs in the guest, in a plain POSIX shell (with `local`), under `set -eu`:
# every command that fails ends the scenario, and the trap below shows what is needed to understand it.

address=127.0.0.1
port=4420

# Which start of the guest this is, from 1.
# shellcheck source=/dev/null
. /host/boot.sh

# ---- Saying what happens

uptime_seconds() {
    cut -d' ' -f1 /proc/uptime
}

# To standard error, as they are also used where standard output is a command substitution's.
step() {
    printf '[%7ss] == %s\n' "$(uptime_seconds)" "$*" >&2
}

fail() {
    printf '[%7ss] FAIL: %s\n' "$(uptime_seconds)" "$*" >&2
    exit 1
}

on_exit() {
    local status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        printf '[%7ss] the scenario ended with status %s\n' "$(uptime_seconds)" "$status"
        target_show_log || true
        printf -- '---- the last kernel messages\n'
        dmesg | tail -n 40
    else
        step "done"
    fi
    exit "$status"
}
trap on_exit EXIT

assert_eq() { # WHAT EXPECTED ACTUAL
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

assert_same_file() { # WHAT EXPECTED_FILE ACTUAL_FILE
    diff -u "$2" "$3" || fail "$1 differ"
}

assert_at_least() { # WHAT LEAST ACTUAL
    [ "$3" -ge "$2" ] || fail "$1: expected at least $2, got $3"
}

# wait_until SECONDS WHAT COMMAND...: the command is repeated until it succeeds.
wait_until() {
    local limit=$1 what=$2 start now
    shift 2
    start=$(cut -d. -f1 /proc/uptime)
    until "$@"; do
        now=$(cut -d. -f1 /proc/uptime)
        [ $((now - start)) -lt "$limit" ] || fail "waited $limit s for $what"
        sleep 0.2
    done
}

# expect_failure STATUS WHAT PATTERN COMMAND...: the command must end with this status (`any`: any but 0) and say
# something that matches (grep -E, any case).
expect_failure() {
    local wanted=$1 what=$2 pattern=$3 status=0
    shift 3
    "$@" >/tmp/expected-failure 2>&1 || status=$?
    sed 's/^/    | /' /tmp/expected-failure
    printf '    exit status %s\n' "$status"
    [ "$status" -ne 0 ] || fail "$what: '$*' succeeded"
    [ "$status" -lt 101 ] || fail "$what: '$*' died with status $status instead of refusing"
    [ "$wanted" = any ] || assert_eq "$what: exit status" "$wanted" "$status"
    grep -qiE "$pattern" /tmp/expected-failure || fail "$what: the message does not name the reason (/$pattern/)"
}

# ---- The machine

driver_of() { # PCI_ADDRESS
    if [ -e "/sys/bus/pci/devices/$1/driver" ]; then
        basename "$(readlink "/sys/bus/pci/devices/$1/driver")"
    else
        echo none
    fi
}

is_there() { # PCI_ADDRESS
    [ -e "/sys/bus/pci/devices/$1" ]
}

is_not_there() { # PCI_ADDRESS
    ! is_there "$1"
}

has_driver() { # PCI_ADDRESS DRIVER
    [ "$(driver_of "$1")" = "$2" ]
}

# The kernel's controller (nvme0, ...) for a PCI function.
local_controller() { # PCI_ADDRESS
    ls "/sys/bus/pci/devices/$1/nvme" 2>/dev/null
}

# The block devices of a controller, one a line, in the order of their namespaces (the kernel names them in the
# order in which it found them). With native multipath the device to use is the head, which belongs to the
# subsystem; the controller's own path device is hidden.
block_devices_of() { # CONTROLLER
    local subsystem entry
    for subsystem in /sys/class/nvme-subsystem/*; do
        [ -e "$subsystem/$1" ] || continue
        for entry in "$subsystem"/nvme*n* "$subsystem/$1/$1"n*; do
            [ -e "$entry/size" ] || continue
            [ "$(cat "$entry/size")" -gt 0 ] || continue
            printf '%s /dev/%s\n' "$(cat "$entry/nsid")" "${entry##*/}"
        done
    done | sort -n | cut -d' ' -f2
}

has_block_devices() { # CONTROLLER COUNT
    [ "$(block_devices_of "$1" | wc -l)" -ge "$2" ] || return 1
    local device
    for device in $(block_devices_of "$1"); do
        [ -b "$device" ] || return 1
    done
}

# The block devices of a PCI function once the kernel's driver has found COUNT of them.
local_block_devices() { # PCI_ADDRESS [COUNT]
    wait_until 30 "the kernel's driver at $1" has_driver "$1" nvme
    wait_until 30 "a controller at $1" local_controller "$1" >/dev/null
    wait_until 30 "namespaces at $1" has_block_devices "$(local_controller "$1")" "${2:-1}"
    block_devices_of "$(local_controller "$1")"
}

# monitor COMMAND...: gives QEMU's monitor a command, which must be one that it says nothing to.
monitor() {
    monitor_accepts "$*" || fail "QEMU was told '$*' and said $(cat /tmp/monitor-answer)"
}

# monitor_accepts COMMAND...: whether it says nothing to it; what it says is in /tmp/monitor-answer.
monitor_number=0
monitor_accepts() {
    echo "$*" >/host/out/monitor.new
    mv /host/out/monitor.new "/host/out/monitor.$monitor_number"
    wait_until 30 "QEMU to do '$*'" test -f "/host/out/answer.$monitor_number"
    cp "/host/out/answer.$monitor_number" /tmp/monitor-answer
    monitor_number=$((monitor_number + 1))
    grep -q '"return": ""' /tmp/monitor-answer
}

# ---- The kernel's host

# Subsystem NQNs that discovery lists, one a line.
discovered_nqns() {
    nvme discover -t tcp -a "$address" -s "$port" >/tmp/discovery || fail "nvme discover failed"
    awk '/^subtype:/ { ordinary = /nvme subsystem/ } /^subnqn:/ && ordinary { print $2 }' /tmp/discovery
}

controllers() {
    ls /sys/class/nvme 2>/dev/null || true
}

# nvme_connect NQN [OPTION]...: connects and sets $controller to the new controller.
nvme_connect() {
    local nqn=$1
    shift
    controllers >/tmp/controllers-before
    nvme connect -t tcp -a "$address" -s "$port" -n "$nqn" "$@" || fail "nvme connect -n $nqn $* failed"
    find_new_controller
}

# nvme_connect_as HOST_ID NQN [,PARAMETER]...: as another host than the guest itself. Past nvme-cli, which looks at
# addresses only and calls the second host connected already.
nvme_connect_as() {
    controllers >/tmp/controllers-before
    echo "transport=tcp,traddr=$address,trsvcid=$port,nqn=$2,hostid=$1,hostnqn=$(host_nqn "$1")${3:-}" \
        >/dev/nvme-fabrics || fail "connecting to $2 as host $1 failed"
    find_new_controller
}

host_nqn() { # HOST_ID
    echo "nqn.2014-08.org.nvmexpress:uuid:$1"
}

find_new_controller() {
    local name
    controller=
    for name in $(controllers); do
        grep -qx "$name" /tmp/controllers-before || controller=$name
    done
    [ -n "$controller" ] || fail "there is no new controller"
    wait_until 30 "$controller to be live" is_live "$controller"
}

is_live() { # CONTROLLER
    [ "$(cat "/sys/class/nvme/$1/state" 2>/dev/null)" = live ]
}

# remote_block_devices CONTROLLER [COUNT]
remote_block_devices() {
    wait_until 30 "the namespaces of $1" has_block_devices "$1" "${2:-1}"
    block_devices_of "$1"
}

nvme_disconnect() { # CONTROLLER
    nvme disconnect -d "$1" || fail "nvme disconnect -d $1 failed"
    wait_until 30 "$1 to go" controller_is_gone "$1"
}

controller_is_gone() { # CONTROLLER
    [ ! -e "/sys/class/nvme/$1" ]
}

# Value of a field in what `nvme id-ctrl` and its like print; FIELD is a pattern.
field() { # FILE FIELD
    sed -n "s/^$2[[:space:]]*:[[:space:]]*//p" "$1" | sed 's/[[:space:]]*$//' | head -n 1
}

assert_same_fields() { # WHAT EXPECTED_FILE ACTUAL_FILE FIELD...
    local what=$1 expected=$2 actual=$3 name
    shift 3
    for name in "$@"; do
        [ -n "$(field "$expected" "$name")" ] || fail "$what: no field '$name' in what the drive said"
        assert_eq "$what: $name" "$(field "$expected" "$name")" "$(field "$actual" "$name")"
    done
}

# ---- Data

# fio_verify DEVICE NAME [FIO_OPTION]...: writes and verifies; any error, and any mismatch, is a failure.
fio_verify() {
    run_fio "$@" --do_verify=1
    # Some combinations of options make this fio skip what they ask for, without a word.
    grep -q 'total=[1-9][0-9]*,[1-9]' "/tmp/fio-$2" || fail "fio $2: nothing was written, or nothing verified"
}

# fio_verify_only DEVICE NAME [FIO_OPTION]...: verifies what fio_verify wrote with the same options.
fio_verify_only() {
    run_fio "$@" --verify_only=1
    grep -q 'total=[1-9]' "/tmp/fio-$2" || fail "fio $2: nothing was verified"
}

run_fio() {
    local device=$1 name=$2 status=0
    shift 2
    # Linux sends in the name of who submits: on a connection that has just broken that is a SIGPIPE, which would end fio.
    (
        trap '' PIPE
        exec fio --name="$name" --filename="$device" --direct=1 --ioengine=io_uring --iodepth=32 --group_reporting \
            --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randrepeat=1 \
            --output="/tmp/fio-$name" "$@"
    ) >"/tmp/fio-$name-messages" 2>&1 || status=$?
    cat "/tmp/fio-$name-messages"
    if [ "$status" -ne 0 ] || ! grep -q 'err= 0' "/tmp/fio-$name" || grep -q 'err= *[1-9]' "/tmp/fio-$name"; then
        cat "/tmp/fio-$name"
        fail "fio $name on $device: status $status"
    fi
    sed -n "s/^ *\([a-z]*: IOPS=\)/    $name: \1/p" "/tmp/fio-$name"
}

# make_tree FOLDER: files of many sizes, with folders, links and a name that is not ASCII.
make_tree() {
    local size number=0
    mkdir -p "$1/deep/er/still" "$1/many"
    for size in 1 511 512 513 4095 4096 4097 65535 65536 65537 1048575 1048577 5000001; do
        head -c "$size" /dev/urandom >"$1/size-$size"
    done
    while [ "$number" -lt 100 ]; do
        head -c $((number * 37)) "$1/size-65537" >"$1/many/file-$number"
        number=$((number + 1))
    done
    : >"$1/empty"
    cp "$1/size-4097" "$1/deep/er/still/$(printf 'na\303\257ve')"
    ln -s ../size-512 "$1/deep/link"
    cp /bin/fio /bin/busybox "$1/deep/"
}

checksums() { # FOLDER: of every file in it, sorted
    (cd "$1" && find . -type f -exec md5sum {} + | sort -k 2)
}

drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

modprobe nvme
modprobe nvme-tcp
# shellcheck source=tests/qemu/target-gangway.sh
. /host/target.sh

# What `boot --set` sets, over what the scenario and the target have set before.
# shellcheck source=/dev/null
. /host/settings.sh
