# shellcheck shell=dash
# The target of a scenario: the kernel's own, in passthru mode. With it the same scenarios show whether the lab and
# the scenario are at fault, or gangway. Sourced by guest-lib.sh; target-gangway.sh says what each function is for.
# shellcheck disable=SC2154 # address and port are guest-lib.sh's

modprobe nvmet-tcp
mount -t configfs configfs /sys/kernel/config
nvmet=/sys/kernel/config/nvmet
# shellcheck disable=SC2034 # read by scenarios that set options for gangway
serve_options=

target_take() {
    :
}

target_serve() { # PCI_ADDRESS...
    local pci nqn
    mkdir "$nvmet/ports/1"
    echo tcp >"$nvmet/ports/1/addr_trtype"
    echo ipv4 >"$nvmet/ports/1/addr_adrfam"
    echo "$address" >"$nvmet/ports/1/addr_traddr"
    echo "$port" >"$nvmet/ports/1/addr_trsvcid"
    for pci in "$@"; do
        nqn=nqn.2014-08.org.example:kernel-target:$(local_controller "$pci")
        mkdir "$nvmet/subsystems/$nqn"
        echo 1 >"$nvmet/subsystems/$nqn/attr_allow_any_host"
        # The namespaces' identifiers are in use in this very kernel: without new ones its host refuses them.
        echo 1 >"$nvmet/subsystems/$nqn/passthru/clear_ids"
        printf '/dev/%s' "$(local_controller "$pci")" >"$nvmet/subsystems/$nqn/passthru/device_path"
        echo 1 >"$nvmet/subsystems/$nqn/passthru/enable"
        ln -s "$nvmet/subsystems/$nqn" "$nvmet/ports/1/subsystems/$nqn"
    done
}

target_stop() {
    local subsystem
    for subsystem in "$nvmet"/subsystems/*; do
        rm "$nvmet/ports/1/subsystems/${subsystem##*/}"
        echo 0 >"$subsystem/passthru/enable"
        rmdir "$subsystem"
    done
    rmdir "$nvmet/ports/1"
}

target_return() {
    :
}

target_show_log() {
    :
}
