#!/bin/sh
# Makes a machine of its own out of namespaces and control groups, says "ready", and lives until it is killed.
# Usage: machine.sh NAME FOLDER. Nothing that happens in it touches the network, mounts, /etc or /run outside.
set -eu

# Where a hierarchy is mounted: by its controllers, or the unified one.
mounted() {
    if [ -z "$1" ]; then
        awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts
    else
        awk -v wanted=",$1" '$3 == "cgroup" && substr($4, length($4) - length(wanted) + 1) == wanted { print $2; exit }' /proc/self/mounts
    fi
}

# Groups of this machine's own, below those that we are in.
join_groups() {
    : >"$folder/groups"
    while IFS=: read -r _ controllers path; do
        place=$(mounted "$controllers")
        [ -n "$place" ] || continue
        group="$place${path%/}/$name"
        mkdir -p "$group"
        for file in cpuset.cpus cpuset.mems; do
            if [ -z "$controllers" ] || [ ! -e "$group/$file" ]; then continue; fi
            cat "$place$path/$file" >"$group/$file"
        done
        echo $$ >"$group/cgroup.procs"
        echo "$group" >>"$folder/groups"
    done </proc/$$/cgroup
}

# The same hierarchies, of which only our own part is to be seen.
mount_groups() {
    while read -r _ place kind options _; do
        case "$kind" in
            cgroup) echo "$place $kind ${options#rw,*time,}" ;;
            cgroup2) echo "$place $kind -" ;;
        esac
    done </proc/self/mounts >"$folder/hierarchies"
    if ! grep -q '^/sys/fs/cgroup ' "$folder/hierarchies"; then mount -t tmpfs tmpfs /sys/fs/cgroup; fi
    while read -r place kind options; do
        mkdir -p "$place"
        case "$kind" in
            cgroup) mount -t cgroup -o "$options" cgroup "$place" ;;
            cgroup2) mount -t cgroup2 cgroup2 "$place" ;;
        esac
    done <"$folder/hierarchies"
    # A group of the unified hierarchy has processes or groups below it that share its resources, not both.
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p /sys/fs/cgroup/machine
        while read -r pid; do echo "$pid" >/sys/fs/cgroup/machine/cgroup.procs; done </sys/fs/cgroup/cgroup.procs
    fi
}

case "$1" in
    inside)
        name=$2 folder=$3
        mount_groups
        mkdir -p "$folder/etc" "$folder/etc.work"
        mount -t overlay -o "lowerdir=/etc,upperdir=$folder/etc,workdir=$folder/etc.work" overlay /etc
        mount -t tmpfs tmpfs /run
        ip link set lo up
        hostname "$name"
        echo ready
        # The first process of a machine waits for those that nobody else waits for.
        while :; do
            sleep 3600 &
            wait
        done
        ;;
    *)
        name=$1 folder=$2
        join_groups
        exec unshare --net --mount --pid --cgroup --uts --ipc --fork --kill-child --mount-proc sh "$0" inside "$name" "$folder"
        ;;
esac
